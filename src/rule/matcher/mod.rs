//! The matchers: what each is called, takes and sees. One file per part of a request; the registry below names them all.

use std::borrow::Cow;
use std::fmt;

use crate::exchange::RequestView;

use super::predicate::Predicate;

pub mod client_ip;
pub mod header;
pub mod host;
pub mod method;
pub mod path;
pub mod query;
pub mod template;

/// One condition on a request.
pub trait Matcher: Sized {
    /// Its name in a rule.
    const NAME: &'static str;
    /// What its parameters are called.
    const PARAMETERS: &'static [&'static str];
    /// How many of the parameters, from the last, may be left out.
    const OPTIONAL: usize = 0;

    /// Reads its parameters; there are as many as it asks for.
    ///
    /// # Errors
    /// A sentence about what is wrong with them.
    fn parse(arguments: &[String]) -> Result<Self, String>;

    /// Whether the request meets it.
    fn matches(&self, request: &RequestView<'_>) -> bool;

    /// The parameters, as in a rule.
    fn arguments(&self) -> Vec<Cow<'_, str>>;

    /// What it looks at in the request, for people: ``path is `/a` ``.
    fn sees(&self, request: &RequestView<'_>) -> String;

    /// What an index may know of it.
    fn hint(&self) -> Hint<'_> {
        Hint::None
    }

    /// Why its author probably meant something else.
    fn doubt(&self) -> Option<String> {
        None
    }
}

/// A condition that an index can look up. All but [`Hint::PathBegins`] say exactly what the matcher says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hint<'a> {
    /// Nothing to look up.
    None,
    /// The host is this.
    Host(&'a str),
    /// The host is one label before this.
    HostUnder(&'a str),
    /// The path is this.
    Path(&'a str),
    /// The path begins with this, at any byte.
    PathPrefix(&'a str),
    /// The path begins with this and the matcher wants more than that.
    PathBegins(&'a str),
}

/// Parameter `index`; empty if there are fewer.
fn argument(arguments: &[String], index: usize) -> &str {
    arguments.get(index).map_or("", String::as_str)
}

/// Writes `value` as a rule would.
fn write_quoted(f: &mut fmt::Formatter<'_>, value: &str) -> fmt::Result {
    if value.contains(['`', '\r']) { write!(f, "{value:?}") } else { write!(f, "`{value}`") }
}

/// Makes the enum of all matchers. Those of the current syntax are known by their names;
/// the older syntax builds its matchers itself ([`template`]).
macro_rules! registry {
    (named { $($named:ident: $named_type:ty,)* } templates { $($template:ident: $template_type:ty,)* }) => {
        /// Any of the matchers.
        #[derive(Clone, Debug)]
        pub enum AnyMatcher {
            $(#[doc = concat!("`", stringify!($named), "`")] $named($named_type),)*
            $(#[doc = concat!("`", stringify!($template), "` of the older syntax")] $template($template_type),)*
        }

        /// Names of the matchers of the current syntax.
        pub const NAMES: &[&str] = &[$(<$named_type>::NAME),*];

        impl AnyMatcher {
            /// Builds the matcher `name` of the current syntax.
            ///
            /// # Errors
            /// A sentence about what is wrong with its parameters.
            pub fn build(name: &str, arguments: &[String]) -> Result<Predicate<Self>, String> {
                match name {
                    $(<$named_type>::NAME => {
                        expect_count::<$named_type>(arguments.len())?;
                        <$named_type>::parse(arguments).map(|matcher| Predicate::Is(Self::$named(matcher)))
                    })*
                    _ => Err(format!("unknown matcher `{name}`")),
                }
            }

            /// Whether the request meets it.
            pub fn matches(&self, request: &RequestView<'_>) -> bool {
                match self {
                    $(Self::$named(matcher) => matcher.matches(request),)*
                    $(Self::$template(matcher) => matcher.matches(request),)*
                }
            }

            /// What it looks at in the request, for people.
            pub fn sees(&self, request: &RequestView<'_>) -> String {
                match self {
                    $(Self::$named(matcher) => matcher.sees(request),)*
                    $(Self::$template(matcher) => matcher.sees(request),)*
                }
            }

            /// What an index may know of it.
            pub fn hint(&self) -> Hint<'_> {
                match self {
                    $(Self::$named(matcher) => matcher.hint(),)*
                    $(Self::$template(matcher) => matcher.hint(),)*
                }
            }

            /// Why its author probably meant something else.
            pub fn doubt(&self) -> Option<String> {
                match self {
                    $(Self::$named(matcher) => matcher.doubt(),)*
                    $(Self::$template(matcher) => matcher.doubt(),)*
                }
            }
        }

        impl fmt::Display for AnyMatcher {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let (name, arguments) = match self {
                    $(Self::$named(matcher) => (<$named_type>::NAME, matcher.arguments()),)*
                    $(Self::$template(matcher) => (<$template_type>::NAME, matcher.arguments()),)*
                };
                write!(f, "{name}(")?;
                for (index, argument) in arguments.iter().enumerate() {
                    if index > 0 {
                        f.write_str(", ")?;
                    }
                    write_quoted(f, argument)?;
                }
                f.write_str(")")
            }
        }
    };
}

registry! {
    named {
        Host: host::Host,
        HostRegexp: host::HostRegexp,
        Path: path::Path,
        PathPrefix: path::PathPrefix,
        PathRegexp: path::PathRegexp,
        Method: method::Method,
        Header: header::Header,
        HeaderRegexp: header::HeaderRegexp,
        Query: query::Query,
        QueryRegexp: query::QueryRegexp,
        ClientIp: client_ip::ClientIp,
    }
    templates {
        HostTemplate: template::HostTemplate,
        PathTemplate: template::PathTemplate,
        PathPrefixTemplate: template::PathPrefixTemplate,
        QueryTemplate: template::QueryTemplate,
    }
}

fn expect_count<M: Matcher>(count: usize) -> Result<(), String> {
    let most = M::PARAMETERS.len();
    let least = most - M::OPTIONAL;
    if (least..=most).contains(&count) {
        return Ok(());
    }
    let wanted = match (least, most) {
        (1, 1) => "1 parameter".to_owned(),
        (least, most) if least == most => format!("{most} parameters"),
        (least, most) => format!("{least} to {most} parameters"),
    };
    Err(format!("`{}` takes {wanted} ({}), not {count}", M::NAME, M::PARAMETERS.join(", ")))
}
