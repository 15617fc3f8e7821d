//! Options whose order counts: rules apply in the order in which they were typed, whatever option they came with.

use std::ffi::OsString;

use clap::builder::ValueParser;
use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches, value_parser};

/// One of the options that add rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RuleArg {
    Filter(OsString),
    Exclude(OsString),
    Include(OsString),
    ExcludeFrom(OsString),
    IncludeFrom(OsString),
    /// `-F`.
    PerDirectory,
}

/// `--filter` and its kin, in the order in which they were typed.
#[derive(Clone, Debug, Default)]
pub struct RuleArgs {
    pub rules: Vec<RuleArg>,
    pub cvs_exclude: bool,
    pub from0: bool,
}

/// One option: its name and letter, its value, what it adds, and its help.
struct Opt {
    name: &'static str,
    short: Option<char>,
    value: &'static str,
    make: fn(OsString) -> RuleArg,
    help: &'static str,
}

const HEADING: &str = "Selection";

const OPTIONS: [Opt; 5] = [
    Opt {
        name: "exclude",
        short: None,
        value: "PATTERN",
        make: RuleArg::Exclude,
        help: "Leave out what matches PATTERN: it is not copied, and not deleted in DST. Patterns are rsync's: `*.o`, \
               `cache/` (directories only), `/top` (in the root only), `a/**/b`",
    },
    Opt {
        name: "include",
        short: None,
        value: "PATTERN",
        make: RuleArg::Include,
        help: "Take what matches PATTERN; of all rules the first that matches decides, in the order typed",
    },
    Opt {
        name: "filter",
        short: Some('f'),
        value: "RULE",
        make: RuleArg::Filter,
        help: "Add a rule of rsync's filter language: `- PATTERN`, `+ PATTERN`, hide, show, protect, risk, `merge FILE`, \
               `dir-merge FILE`, clear",
    },
    Opt {
        name: "exclude-from",
        short: None,
        value: "FILE",
        make: RuleArg::ExcludeFrom,
        help: "Read patterns to leave out from FILE, one a line; `-` is standard input",
    },
    Opt {
        name: "include-from",
        short: None,
        value: "FILE",
        make: RuleArg::IncludeFrom,
        help: "Read patterns to take from FILE, one a line; `-` is standard input",
    },
];

impl Opt {
    fn arg(&self) -> Arg {
        let arg = Arg::new(self.name)
            .long(self.name)
            .value_name(self.value)
            .help(self.help)
            .help_heading(HEADING)
            .action(ArgAction::Append)
            .allow_hyphen_values(true)
            .value_parser(ValueParser::os_string());
        match self.short {
            Some(short) => arg.short(short),
            None => arg,
        }
    }
}

/// A switch that counts each time, and where.
fn per_directory() -> Arg {
    Arg::new("per-directory")
        .short('F')
        .help(
            "Obey the .rsync-filter files in the source and above it; given twice, also leave these files out",
        )
        .help_heading(HEADING)
        .action(ArgAction::Append)
        .num_args(0)
        .default_missing_value("true")
        .value_parser(value_parser!(bool))
}

fn switch(name: &'static str, short: char, help: &'static str) -> Arg {
    Arg::new(name)
        .long(name)
        .short(short)
        .help(help)
        .help_heading(HEADING)
        .action(ArgAction::SetTrue)
        .overrides_with(name)
}

impl Args for RuleArgs {
    fn augment_args(command: Command) -> Command {
        command
            .args(OPTIONS.iter().map(Opt::arg))
            .arg(per_directory())
            .arg(switch(
                "cvs-exclude",
                'C',
                "Leave out what CVS would: editors' backups, objects, version control, and what .cvsignore files name",
            ))
            .arg(switch(
                "from0",
                '0',
                "In the files of --*-from and of merge rules, entries end with a NUL",
            ))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for RuleArgs {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut rules: Vec<(usize, RuleArg)> = Vec::new();
        for option in &OPTIONS {
            let values = matches.get_many::<OsString>(option.name);
            let values = values.into_iter().flatten().cloned().map(option.make);
            let indices = matches.indices_of(option.name).into_iter().flatten();
            rules.extend(indices.zip(values));
        }
        let indices = matches.indices_of("per-directory").into_iter().flatten();
        rules.extend(indices.map(|index| (index, RuleArg::PerDirectory)));
        rules.sort_by_key(|(index, _)| *index);
        Ok(Self {
            rules: rules.into_iter().map(|(_, rule)| rule).collect(),
            cvs_exclude: matches.get_flag("cvs-exclude"),
            from0: matches.get_flag("from0"),
        })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(args: &[&str]) -> RuleArgs {
        let command = RuleArgs::augment_args(Command::new("test"));
        let matches = command.get_matches_from([&["test"], args].concat());
        RuleArgs::from_arg_matches(&matches).unwrap()
    }

    #[test]
    fn rules_keep_their_order_across_options() {
        let parsed = parse(&[
            "--include=a",
            "-FC",
            "--exclude",
            "- b",
            "-f-_c",
            "-F0",
            "--exclude-from=-",
            "--include",
            "d",
        ]);
        let expected = [
            RuleArg::Include("a".into()),
            RuleArg::PerDirectory,
            RuleArg::Exclude("- b".into()),
            RuleArg::Filter("-_c".into()),
            RuleArg::PerDirectory,
            RuleArg::ExcludeFrom("-".into()),
            RuleArg::Include("d".into()),
        ];
        assert_eq!(parsed.rules, expected);
        assert!(parsed.cvs_exclude && parsed.from0);
        assert_eq!(parse(&["-FF"]).rules.len(), 2);
        assert!(parse(&[]).rules.is_empty());
    }
}
