//! What failed requests are called where only the errors of system calls are known. The log has the whole story.

use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::{DisplayErrorContext, ProvideErrorMetadata, SdkError};
use nix::errno::Errno;

/// Answers that are about who asks, not about what.
const REJECTED_CODES: [&str; 4] = [
    "InvalidToken",
    "InvalidAccessKeyId",
    "SignatureDoesNotMatch",
    SKEWED,
];
const EXPIRED: &str = "ExpiredToken";
/// Signatures bear the time.
const SKEWED: &str = "RequestTimeTooSkewed";
/// What the SDK says when nobody gives it any, or no new ones.
const CREDENTIALS: &str = "loading credentials";

/// The error of a call that fails so.
pub(super) fn errno_of<E>(error: &SdkError<E, HttpResponse>) -> Errno
where
    E: std::error::Error + ProvideErrorMetadata + 'static,
{
    tracing::warn!("a request failed: {}", words(error));
    tracing::debug!(error = %DisplayErrorContext(error), "a request failed");
    match error.code() {
        Some(EXPIRED) => return Errno::EKEYEXPIRED,
        Some(code) if REJECTED_CODES.contains(&code) => return Errno::EKEYREJECTED,
        // Archived: it has to be restored first.
        Some("InvalidObjectState") => return Errno::ENODATA,
        _ => {}
    }
    match error {
        SdkError::DispatchFailure(_) if chain(error).contains(CREDENTIALS) => Errno::EKEYEXPIRED,
        SdkError::ServiceError(answer) => of_status(answer.raw().status().as_u16()),
        SdkError::TimeoutError(_) => Errno::ETIMEDOUT,
        SdkError::DispatchFailure(failure) if failure.is_timeout() => Errno::ETIMEDOUT,
        SdkError::DispatchFailure(failure) if failure.is_io() => Errno::ECONNRESET,
        SdkError::ResponseError(_) => Errno::EPROTO,
        _ => Errno::EIO,
    }
}

/// The same for listings: it is the bucket that they do not find, and that says nothing of names.
pub(super) fn errno_of_list<E>(error: &SdkError<E, HttpResponse>) -> Errno
where
    E: std::error::Error + ProvideErrorMetadata + 'static,
{
    match errno_of(error) {
        Errno::ENOENT => Errno::EIO,
        errno => errno,
    }
}

/// Whether a failure is about who asks, not about what.
pub(super) fn is_refusal(errno: Errno) -> bool {
    matches!(errno, Errno::EKEYEXPIRED | Errno::EKEYREJECTED)
}

fn of_status(status: u16) -> Errno {
    match status {
        404 => Errno::ENOENT,
        401 | 403 => Errno::EACCES,
        // Not the object that was asked for any more.
        412 => Errno::ESTALE,
        // Too busy, after all that was repeated.
        408 | 429 | 500 | 502..=504 => Errno::EAGAIN,
        _ => Errno::EIO,
    }
}

/// In the server's words, and where it has none, in those of the SDK.
pub(super) fn words<E>(error: &SdkError<E, HttpResponse>) -> String
where
    E: std::error::Error + ProvideErrorMetadata + 'static,
{
    match (error.code(), error.message()) {
        (Some(SKEWED), message) => format!(
            "the clock of this machine is too far from that of the server: set it right, and try again ({SKEWED}: {})",
            message.unwrap_or_default()
        ),
        (Some(code), Some(message)) => format!("{code}: {message}"),
        (Some(code), None) => code.to_owned(),
        _ => explained(chain(error)),
    }
}

/// An error and what caused it.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    let mut words: Vec<String> = causes.map(ToString::to_string).collect();
    words.dedup();
    words.join(": ")
}

fn explained(words: String) -> String {
    if words.contains(CREDENTIALS) {
        return format!(
            "there are no credentials: give AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or --profile, or for a public bucket --no-sign-request ({words})"
        );
    }
    words
}
