//! Flags: `--entryPoints.web.address=:80`, `--foo bar`, `-x`. Names have no case.

use super::dotted::{Joint, insert, resolve};
use super::schema::STATIC;
use super::tree::{Node, Sources, Span, Value};
use crate::problem::Problem;

/// What the flags say.
#[derive(Debug)]
pub struct Flags {
    /// Their settings.
    pub tree: Node,
    /// `--configFile`.
    pub file: Option<String>,
    /// How many of them are settings.
    pub count: usize,
    /// What is wrong with them.
    pub problems: Vec<Problem>,
}

/// Reads flags. The name of the program is not among them.
pub fn read(args: &[String], sources: &mut Sources) -> Flags {
    let mut flags = Flags { tree: Node::empty(Span::default()), file: None, count: 0, problems: Vec::new() };
    let mut args = args.iter().map(String::as_str).peekable();
    while let Some(arg) = args.next() {
        let Some(written) = arg.strip_prefix("--").or_else(|| arg.strip_prefix('-')).filter(|rest| !rest.is_empty())
        else {
            if arg != "--" {
                flags.problems.push(Problem::at("", format!("unexpected argument `{arg}`, flags begin with `--`")));
                continue;
            }
            break;
        };
        let (name, value) = match written.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (written, None),
        };
        let span = Span::whole(sources.add(format!("flag --{name}")));
        let mut next = || args.next_if(|arg| !arg.starts_with("--")).map(str::to_owned);
        if name.eq_ignore_ascii_case("configFile") {
            flags.file = value.map(str::to_owned).or_else(next);
            continue;
        }
        if let Err(problem) = setting(&mut flags, name, value, &mut next, span) {
            flags.problems.push(problem.placed(sources.place(span)));
        }
    }
    flags
}

fn setting(
    flags: &mut Flags,
    name: &str,
    value: Option<&str>,
    next: &mut dyn FnMut() -> Option<String>,
    span: Span,
) -> Result<(), Problem> {
    let plain = name.replace('[', ".").replace(']', "");
    let segments = plain.split('.').collect::<Vec<_>>();
    let (steps, shape) = resolve(&STATIC, &segments, Joint::Dot).map_err(|failure| {
        let problem = Problem::at("", "there is no such flag");
        let known = segments.get(..failure.known).unwrap_or_default();
        match failure.near {
            Some(near) => {
                let meant = known.iter().copied().chain([near.as_str()]).collect::<Vec<_>>().join(".");
                problem.with_help(format!("did you mean `--{meant}`?"))
            }
            None => problem,
        }
    })?;
    let value = match value {
        Some(value) => value.to_owned(),
        None if shape.may_stand_alone() => "true".to_owned(),
        None => next().ok_or_else(|| Problem::at("", "this flag needs a value: `--name=value`"))?,
    };
    insert(&mut flags.tree, &steps, shape, Node::new(Value::Str(value.into()), span));
    flags.count += 1;
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(line: &str) -> (serde_json::Value, Vec<String>) {
        let args = line.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let flags = read(&args, &mut Sources::default());
        (flags.tree.to_json(), flags.problems.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn flags_become_a_tree() {
        for (line, expected) in [
            ("--entryPoints.web.address=:80", serde_json::json!({"entryPoints": {"web": {"address": ":80"}}})),
            ("--ENTRYPOINTS.Web.ADDRESS :80", serde_json::json!({"entryPoints": {"Web": {"address": ":80"}}})),
            ("-ping --api.insecure", serde_json::json!({"ping": "true", "api": {"insecure": "true"}})),
            ("--api.insecure --api", serde_json::json!({"api": {"insecure": "true"}})),
            ("--api --api.insecure", serde_json::json!({"api": {"insecure": "true"}})),
            (
                "--entryPoints.a.http.middlewares=x --entryPoints.a.http.middlewares=y,z",
                serde_json::json!({"entryPoints": {"a": {"http": {"middlewares": "x,y,z"}}}}),
            ),
            (
                "--entryPoints.a.http.tls.domains[1].main=b --entryPoints.a.http.tls.domains[0].main=a",
                serde_json::json!({"entryPoints": {"a": {"http": {"tls": {"domains": [{"main": "a"}, {"main": "b"}]}}}}}),
            ),
            (
                "--metrics.prometheus.headerLabels.host=X-Host",
                serde_json::json!({"metrics": {"prometheus": {"headerLabels": {"host": "X-Host"}}}}),
            ),
            ("--threads -1 -- --nonsense", serde_json::json!({"threads": "-1"})),
        ] {
            assert_eq!(parse(line), (expected, Vec::new()), "{line}");
        }
    }

    #[test]
    fn wrong_flags_are_named() {
        for (line, expected) in [
            (
                "--entryPoint.web.address=:80",
                "flag --entryPoint.web.address: error: there is no such flag (did you mean `--entryPoints`?)",
            ),
            (
                "--entryPoints.web.adress=:80",
                "flag --entryPoints.web.adress: error: there is no such flag (did you mean `--entryPoints.web.address`?)",
            ),
            ("--nonsense", "flag --nonsense: error: there is no such flag"),
            ("--log.level", "flag --log.level: error: this flag needs a value: `--name=value`"),
            ("--log.level --ping", "flag --log.level: error: this flag needs a value: `--name=value`"),
            ("run", "error: unexpected argument `run`, flags begin with `--`"),
            (
                "--entryPoints.a.http.tls.domains[9999].main=b",
                "flag --entryPoints.a.http.tls.domains[9999].main: error: there is no such flag",
            ),
        ] {
            assert_eq!(parse(line).1, [expected], "{line}");
        }
    }

    #[test]
    fn the_file_is_a_flag_too() {
        let args = ["--configfile=a.toml".to_owned()];
        assert_eq!(read(&args, &mut Sources::default()).file.as_deref(), Some("a.toml"));
    }

    proptest! {
        #[test]
        fn no_flag_panics(args in proptest::collection::vec("-{0,3}[a-z.\\[\\]0-9=]{0,20}|--entryPoints\\.\\PC{0,20}", 0..4)) {
            let _ = read(&args, &mut Sources::default());
        }
    }
}
