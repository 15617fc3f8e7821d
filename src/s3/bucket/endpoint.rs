//! Where requests go. The SDK works that out from its rules twice for each, which is an eighth of all the work that a small one
//! makes; all that is asked about the objects of a bucket goes to the same place.

use std::sync::OnceLock;

use aws_sdk_s3::config::endpoint::{
    DefaultResolver, Endpoint, EndpointFuture, Params, ResolveEndpoint,
};

/// The place of one bucket, as the rules have it.
#[derive(Debug)]
pub(super) struct KnownEndpoint {
    bucket: String,
    rules: DefaultResolver,
    known: OnceLock<Endpoint>,
}

impl KnownEndpoint {
    pub(super) fn new(bucket: String) -> Self {
        Self {
            bucket,
            rules: DefaultResolver::new(),
            known: OnceLock::new(),
        }
    }

    /// What is asked about the bucket itself may go elsewhere.
    fn is_about_objects(&self, params: &Params) -> bool {
        params.bucket() == Some(&self.bucket)
            && params.use_s3_express_control_endpoint() != Some(true)
            && params.use_object_lambda_endpoint() != Some(true)
    }
}

impl ResolveEndpoint for KnownEndpoint {
    fn resolve_endpoint<'a>(&'a self, params: &'a Params) -> EndpointFuture<'a> {
        if !self.is_about_objects(params) {
            return ResolveEndpoint::resolve_endpoint(&self.rules, params);
        }
        if let Some(known) = self.known.get() {
            return EndpointFuture::ready(Ok(known.clone()));
        }
        EndpointFuture::new(async {
            let endpoint = ResolveEndpoint::resolve_endpoint(&self.rules, params).await?;
            Ok(self.known.get_or_init(|| endpoint).clone())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    fn url(rules: &impl ResolveEndpoint, bucket: &str, is_control: bool, style: bool) -> String {
        let params = Params::builder()
            .region("eu-central-1")
            .bucket(bucket)
            .force_path_style(style)
            .use_s3_express_control_endpoint(is_control)
            .build();
        let params = params.unwrap();
        let endpoint = rules.resolve_endpoint(&params).now_or_never();
        endpoint.unwrap().unwrap().url().to_owned()
    }

    #[test]
    fn it_is_the_place_that_the_rules_say() {
        let known = KnownEndpoint::new(String::from("mine"));
        let rules = DefaultResolver::new();
        for (bucket, is_control, style) in [
            ("mine", false, false),
            ("mine", false, false),
            ("mine", true, false),
            ("other", false, false),
            ("other", false, true),
        ] {
            let wanted = url(&rules, bucket, is_control, style);
            assert_eq!(url(&known, bucket, is_control, style), wanted);
        }
        assert!(known.known.get().is_some());
    }
}
