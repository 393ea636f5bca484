//! From sources to types: the only way in.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, mpsc};

use super::check::{Checked, Unknown, check};
use super::format::{Format, SIZE_LIMIT_BYTES, parse};
use super::install::Install;
use super::routing::Routing;
use super::schema::{DYNAMIC, STATIC};
use super::tree::{Node, Sources, Span};
use super::{effective, environment, flags};
use crate::problem::{Problem, Problems};

/// From this size on, a text is read apart.
const LARGE_BYTES: usize = 256 << 10;

/// What was found at start.
#[derive(Clone, Debug, Default)]
pub struct Loaded {
    /// What is read at start.
    pub install: Install,
    /// What is wrong with it.
    pub problems: Problems,
    /// What people should know, though nothing is wrong.
    pub notices: Vec<String>,
    /// The file that was read, if there was one.
    pub file: Option<PathBuf>,
}

/// Reads file, environment and flags; each wins over those before it.
///
/// `args` are the flags without the name of the program.
pub fn install(args: &[String], environment: impl Iterator<Item = (String, String)>) -> Loaded {
    let variables = environment.collect::<Vec<_>>();
    let mut sources = Sources::default();
    let flags = flags::read(args, &mut sources);
    let environment = environment::read(&variables, &mut sources);
    let mut problems = Problems::new();

    let named = flags.file.as_deref().or(environment.file.as_deref()).filter(|file| !file.is_empty());
    let file = named.map(PathBuf::from).or_else(|| candidates(&variables).into_iter().find(|path| path.is_file()));
    let written =
        file.as_deref().map_or_else(|| Ok(Node::empty(Span::default())), |path| read_file(path, &mut sources));
    let mut tree = written.unwrap_or_else(|found| {
        problems.extend(found);
        Node::empty(Span::default())
    });
    problems.extend(environment.problems);
    problems.extend(flags.problems);
    let notices = mixed_sources(file.as_deref(), environment.count, flags.count).into_iter().collect();

    tree.merge(environment.tree);
    tree.merge(flags.tree);
    problems.extend(unread_routing(&tree, &sources));
    let checked = check(&mut tree, &STATIC, &sources, None, &|name| known_elsewhere(DYNAMIC.field(name).is_some()));
    let (install, found) = effective::install(tree, checked, &sources);
    problems.extend(found);
    Loaded { install, problems, notices, file }
}

/// Reads what is read at start from a text that is at hand, and from nothing else.
pub fn install_text(text: &str, format: Format, source: &str) -> (Install, Problems) {
    let mut sources = Sources::default();
    let mut tree = match parse(text, format, source, &mut sources) {
        Ok(tree) => tree,
        Err(problems) => return (Install::default(), problems),
    };
    let checked = check(&mut tree, &STATIC, &sources, None, &|name| known_elsewhere(DYNAMIC.field(name).is_some()));
    effective::install(tree, checked, &sources)
}

/// Reads what a provider has written. Names become `name@provider`.
///
/// Of an unreadable text nothing is used; [`published`] tells that case apart.
pub fn dynamic(text: &str, format: Format, source: &str, provider: &str) -> (Routing, Problems) {
    published(text, format, source, provider).unwrap_or_else(|problems| (Routing::default(), problems))
}

/// Reads what a provider has written, as [`dynamic`].
///
/// # Errors
/// Why the text as a whole is unreadable, so that whoever has an older one should keep that.
pub fn published(text: &str, format: Format, source: &str, provider: &str) -> Result<(Routing, Problems), Problems> {
    let parse = || {
        let mut sources = Sources::default();
        let mut tree = parse(text, format, source, &mut sources)?;
        let unknown = |name: &str| known_elsewhere(STATIC.field(name).is_some());
        let checked = check(&mut tree, &DYNAMIC, &sources, Some(provider), &unknown);
        Ok((tree, checked, sources))
    };
    let read = |parsed: &Result<(Node, Checked, Sources), Problems>| match parsed {
        Ok((tree, checked, sources)) => Ok(Routing::read(tree, checked, sources, provider)),
        Err(problems) => Err(problems.clone()),
    };
    if text.len() < LARGE_BYTES {
        return read(&parse());
    }
    // What is made once and stays must not be made over there.
    let _stay = (LazyLock::force(&DYNAMIC), LazyLock::force(&STATIC), ahash::RandomState::new());
    apart(&parse, &read)
}

/// Uses what a thread of its own has made and drops. A tree takes many times the memory of what is kept of it: allocators give
/// threads regions of their own, and one in which nothing stays goes back to the system as a whole.
fn apart<T: Send + Sync, R>(make: &(dyn Fn() -> T + Sync), use_it: &dyn Fn(&T) -> R) -> R {
    // Bounded, as those allocate nothing when something is sent: that would be left over there.
    let (give, take) = mpsc::sync_channel::<Arc<T>>(1);
    let (finish, finished) = mpsc::sync_channel::<()>(1);
    std::thread::scope(|scope| {
        let maker = std::thread::Builder::new().name("reader".to_owned()).spawn_scoped(scope, move || {
            let made = Arc::new(make());
            if give.send(made.clone()).is_ok() {
                // Ends when the other side has dropped its own, so that this one is the last.
                let _ = finished.recv();
            }
            drop(made);
        });
        match (maker, take.recv()) {
            (Ok(_), Ok(made)) => {
                let used = use_it(&made);
                drop(made);
                drop(finish);
                used
            }
            // There is no thread, or it came to nothing.
            _ => use_it(&make()),
        }
    })
}

/// One file may hold both what is read at start and what may change at any time.
fn known_elsewhere(is_known: bool) -> Unknown {
    if is_known { Unknown::Passed } else { Unknown::Warned }
}

/// Where a file is looked for, in this order.
fn candidates(variables: &[(String, String)]) -> Vec<PathBuf> {
    let variable = |wanted: &str| {
        let found = variables.iter().find(|(name, value)| name == wanted && !value.is_empty());
        found.map(|(_, value)| PathBuf::from(value))
    };
    let ours = |folder: PathBuf| [folder.join("portcullis"), folder.join("traefik")];
    let home = [variable("XDG_CONFIG_HOME"), variable("HOME").map(|home| home.join(".config"))];
    let stems = [PathBuf::from("/etc/portcullis/portcullis"), PathBuf::from("/etc/traefik/traefik")]
        .into_iter()
        .chain(home.into_iter().flatten().flat_map(ours))
        .chain(ours(PathBuf::from(".")));
    stems.flat_map(|stem| ["toml", "yaml", "yml"].map(|ending| stem.with_extension(ending))).collect()
}

fn read_file(path: &Path, sources: &mut Sources) -> Result<Node, Problems> {
    let name = path.display().to_string();
    let mut unreadable = |message: String| {
        let place = sources.add(name.as_str());
        Problems::from(Problem::at("", message).placed(sources.place(Span::whole(place))))
    };
    // What stands for "no file" where one would otherwise be looked for.
    if path == Path::new("/dev/null") {
        return Ok(Node::empty(Span::default()));
    }
    let Some(format) = Format::of_path(path) else {
        return Err(unreadable("expected a file that ends with .toml, .yaml or .yml".to_owned()));
    };
    let mut text = String::new();
    let opened = std::fs::File::open(path);
    match opened.and_then(|file| file.take(SIZE_LIMIT_BYTES as u64 + 1).read_to_string(&mut text)) {
        Ok(_) => parse(&text, format, &name, sources),
        Err(error) => Err(unreadable(format!("cannot be read: {error}"))),
    }
}

/// Traefik reads one of its sources and drops the others in silence; here they add up, which people should know.
fn mixed_sources(file: Option<&Path>, variables: usize, flags: usize) -> Option<String> {
    let plural = |count: usize, noun: &str| match count {
        0 => None,
        1 => Some(format!("1 {noun}")),
        _ => Some(format!("{count} {noun}s")),
    };
    let parts =
        [file.map(|file| file.display().to_string()), plural(variables, "environment variable"), plural(flags, "flag")];
    let parts = parts.into_iter().flatten().collect::<Vec<_>>();
    (parts.len() > 1).then(|| format!("configuration is joined from {}; the later wins", parts.join(", ")))
}

/// Routers in the file that is read at start take effect only if the file provider is pointed at it.
fn unread_routing(tree: &Node, sources: &Sources) -> Option<Problem> {
    if tree.get("providers").is_some_and(|providers| providers.get("file").is_some()) {
        return None;
    }
    let (key, _) = tree.entries().iter().find(|(key, _)| DYNAMIC.field(&key.name).is_some())?;
    let message = "is not read, because no provider is pointed at this file";
    let help = "set `providers.file.filename` to the path of this file";
    Some(Problem::warning(&*key.name, message).with_help(help).placed(sources.place(key.span)))
}

#[cfg(test)]
mod tests;
