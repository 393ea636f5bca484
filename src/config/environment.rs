//! Environment variables: `TRAEFIK_ENTRYPOINTS_WEB_ADDRESS`, and the same with our own prefix.

use super::dotted::{Joint, insert, resolve};
use super::schema::STATIC;
use super::tree::{Node, Sources, Span, Value};
use crate::problem::Problem;

/// Prefixes of our variables. The later one wins.
const PREFIXES: [&str; 2] = ["TRAEFIK_", "PORTCULLIS_"];

/// What the environment says.
#[derive(Debug)]
pub struct Environment {
    /// Its settings.
    pub tree: Node,
    /// `TRAEFIK_CONFIGFILE`.
    pub file: Option<String>,
    /// How many variables are settings.
    pub count: usize,
    /// What is wrong with them.
    pub problems: Vec<Problem>,
}

/// Reads variables. Only those that begin with a prefix and a known root key are looked at.
pub fn read(variables: &[(String, String)], sources: &mut Sources) -> Environment {
    let mut environment =
        Environment { tree: Node::empty(Span::default()), file: None, count: 0, problems: Vec::new() };
    let mut variables = variables.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect::<Vec<_>>();
    variables.sort_unstable();
    for prefix in PREFIXES {
        let mut tree = Node::empty(Span::default());
        let ours = variables.iter().filter(|(name, _)| has_prefix(name, prefix));
        for (name, value) in ours {
            let folded = name.get(prefix.len()..).unwrap_or_default().to_ascii_lowercase();
            if folded == "configfile" {
                environment.file = Some((*value).to_owned());
                continue;
            }
            let segments = folded.split('_').collect::<Vec<_>>();
            let root = segments.first().copied().unwrap_or_default();
            // Others may have variables of our prefix, too. One that begins like a setting was meant to be one, as for Traefik.
            let begun = STATIC
                .fields
                .iter()
                .map(|field| field.name.to_ascii_lowercase())
                .filter(|it| root.starts_with(&**it))
                .max_by_key(String::len);
            let Some(begun) = begun else { continue };
            let span = Span::whole(sources.add(format!("environment {name}")));
            match resolve(&STATIC, &segments, Joint::Underscore) {
                Ok((steps, shape)) => {
                    insert(&mut tree, &steps, shape, Node::new(Value::Str((*value).into()), span));
                    environment.count += 1;
                }
                Err(failure) if STATIC.field(root).is_none() => {
                    let parted = [&*begun, root.get(begun.len()..).unwrap_or_default()];
                    let parted: Vec<_> = parted.into_iter().chain(segments.iter().skip(1).copied()).collect();
                    let meant = resolve(&STATIC, &parted, Joint::Underscore).is_ok().then(|| parted.join("_"));
                    let meant =
                        meant.or(failure.near).map(|near| format!("did you mean `{prefix}{}`?", near.to_uppercase()));
                    let problem = Problem { help: meant, ..Problem::at("", "there is no such variable") };
                    environment.problems.push(problem.placed(sources.place(span)));
                }
                Err(failure) => {
                    let known = segments.get(..failure.known).unwrap_or_default().join("_");
                    let mut problem = Problem::at("", "there is no such variable");
                    if let Some(near) = failure.near {
                        problem = problem
                            .with_help(format!("did you mean `{prefix}{}`?", format!("{known}_{near}").to_uppercase()));
                    }
                    environment.problems.push(problem.placed(sources.place(span)));
                }
            }
        }
        environment.tree.merge(tree);
    }
    environment
}

fn has_prefix(name: &str, prefix: &str) -> bool {
    name.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(variables: &[(&str, &str)]) -> (serde_json::Value, Vec<String>) {
        let owned = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect::<Vec<_>>();
        let environment = read(&owned, &mut Sources::default());
        (environment.tree.to_json(), environment.problems.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn variables_become_a_tree() {
        for (variables, expected) in [
            (
                &[("TRAEFIK_ENTRYPOINTS_WEB_ADDRESS", ":80")][..],
                serde_json::json!({"entryPoints": {"web": {"address": ":80"}}}),
            ),
            (
                &[("TRAEFIK_ENTRYPOINTS_MY_WEB_ADDRESS", ":80")],
                serde_json::json!({"entryPoints": {"my_web": {"address": ":80"}}}),
            ),
            (
                &[("TRAEFIK_ENTRYPOINTS_A_HTTP_TLS_DOMAINS_0_MAIN", "a")],
                serde_json::json!({"entryPoints": {"a": {"http": {"tls": {"domains": [{"main": "a"}]}}}}}),
            ),
            (
                &[("PORTCULLIS_LOG_LEVEL", "INFO"), ("TRAEFIK_LOG_LEVEL", "DEBUG")],
                serde_json::json!({"log": {"level": "INFO"}}),
            ),
            (
                &[("PORTCULLIS_PROVIDERS_PRECEDENCE", "file"), ("TRAEFIK_PROVIDERS_PRECEDENCE", "docker")],
                serde_json::json!({"providers": {"precedence": "file"}}),
            ),
            // What Kubernetes puts there for a service that is called like us.
            (
                &[("TRAEFIK_SERVICE_HOST", "10.0.0.1"), ("TRAEFIK_PORT_80_TCP", "x"), ("HOME", "/root")],
                serde_json::json!({}),
            ),
        ] {
            assert_eq!(parse(variables), (expected, Vec::new()), "{variables:?}");
        }
    }

    #[test]
    fn wrong_variables_are_named() {
        assert_eq!(
            parse(&[("TRAEFIK_LOG_LEVELS", "x")]).1,
            ["environment TRAEFIK_LOG_LEVELS: error: there is no such variable (did you mean `TRAEFIK_LOG_LEVEL`?)"]
        );
        assert_eq!(
            parse(&[("TRAEFIK_LOGLEVEL", "x"), ("TRAEFIK_PINGPONG", "x"), ("PORTCULLIS_LOGGER", "x")]).1,
            [
                "environment TRAEFIK_LOGLEVEL: error: there is no such variable (did you mean `TRAEFIK_LOG_LEVEL`?)",
                "environment TRAEFIK_PINGPONG: error: there is no such variable",
                "environment PORTCULLIS_LOGGER: error: there is no such variable",
            ]
        );
    }
}
