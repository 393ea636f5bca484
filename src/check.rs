//! `portcullis check` and `config`: what the configuration says, without running it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::app::{App, Start};
use crate::cli::{self, CheckArgs, Exit};
use crate::config::schema::{DYNAMIC, STATIC};
use crate::config::tree::Sources;
use crate::config::{Format, Install, format, json_schema, load, print};
use crate::control::Updates;
use crate::problem::{Problem, Problems};
use crate::provider::{Provider, file};
use crate::units::environment;

/// Reads everything, prints everything that is wrong, and ends.
pub fn run(arguments: &CheckArgs) -> Exit {
    let problems = match gather(&arguments.rest) {
        Ok(problems) => problems,
        Err(message) => {
            eprintln!("portcullis: {message}");
            return Exit::Usage;
        }
    };
    let errors = problems.iter().filter(|problem| problem.is_error()).count();
    let warnings = problems.len() - errors;
    if arguments.json {
        cli::tell(format_args!("{}\n", to_json(&problems)));
    } else {
        for problem in &problems {
            cli::tell(format_args!("{problem}\n"));
        }
        if problems.is_empty() {
            cli::tell("the configuration is valid\n");
        } else {
            cli::tell(format_args!("{}, {}\n", counted(errors, "error"), counted(warnings, "warning")));
        }
    }
    match (errors, warnings) {
        (1.., _) => Exit::Invalid,
        (0, 1..) if arguments.strict => Exit::Warnings,
        _ => Exit::Ok,
    }
}

fn counted(count: usize, noun: &str) -> String {
    if count == 1 { format!("1 {noun}") } else { format!("{count} {noun}s") }
}

/// A configuration made ready to be looked at, without listening anywhere.
pub(crate) struct Offline {
    pub(crate) app: App,
    pub(crate) problems: Problems,
    /// Kept until the look is over: the pools' tasks are on it.
    pub(crate) runtime: tokio::runtime::Runtime,
}

/// Reads `rest`: a configuration file, static or dynamic, and static flags.
pub(crate) fn offline(rest: &[String]) -> Result<Offline, String> {
    let (file, flags) = split(rest);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .map_err(|error| format!("cannot start a thread: {error}"))?;
    let (start, mut problems) = start(file.as_deref(), &flags);
    let app = match App::new(start, runtime.handle().clone()) {
        Ok(app) => app,
        Err(found) => {
            problems.extend(found);
            let empty = Start { install: Install::default(), ..Start::default() };
            App::new(empty, runtime.handle().clone()).map_err(|problems| problems.to_string())?
        }
    };
    problems.extend(app.check_doors());
    problems.extend(app.load().problems);
    Ok(Offline { app, problems: problems.once_each(), runtime })
}

fn gather(rest: &[String]) -> Result<Problems, String> {
    offline(rest).map(|offline| offline.problems)
}

/// A file that stands alone is static or dynamic, or both in one; its root keys tell.
fn start(file: Option<&Path>, flags: &[String]) -> (Start, Problems) {
    let mut arguments = flags.to_vec();
    let kinds = file.map(kinds_of);
    let mut providers: Vec<Arc<dyn Provider>> = Vec::new();
    if let (Some(file), Some(kinds)) = (file, kinds) {
        if kinds.is_static {
            arguments.insert(0, format!("--configFile={}", file.display()));
        } else {
            // Otherwise a static file of this machine would be read along.
            arguments.insert(0, "--configFile=/dev/null".to_owned());
        }
        if kinds.is_dynamic {
            let settings = file::Settings::only(file);
            match file::File::new(settings) {
                Ok(provider) => providers.push(Arc::new(Named(provider))),
                Err(problem) => return (Start::default(), problem.into()),
            }
        }
    }
    let loaded = load::install(&arguments, environment());
    let start = Start {
        install: loaded.install,
        file: loaded.file,
        problems: Problems::new(),
        notices: loaded.notices,
        providers,
        ..Start::default()
    };
    (start, loaded.problems)
}

/// What a file holds, by its root keys. One that cannot be read as it stands (it may be a template) counts as dynamic.
fn kinds_of(file: &Path) -> Kinds {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let format = Format::of_path(file).unwrap_or(Format::Yaml);
    let name = file.display().to_string();
    let Ok(root) = format::parse(&text, format, &name, &mut Sources::default()) else {
        return Kinds { is_static: false, is_dynamic: true };
    };
    let any = |known: &dyn Fn(&str) -> bool| root.entries().iter().any(|(key, _)| known(&key.name));
    let is_static = any(&|key| STATIC.field(key).is_some());
    Kinds { is_static, is_dynamic: !is_static || any(&|key| DYNAMIC.field(key).is_some()) }
}

struct Kinds {
    is_static: bool,
    is_dynamic: bool,
}

/// The file on the command line, published as the file provider would.
struct Named(file::File);

impl Provider for Named {
    fn name(&self) -> &str {
        self.0.name()
    }

    fn read(&self, updates: &Updates) {
        self.0.read(updates);
    }

    fn watch(self: Arc<Self>, _: Updates) -> Result<(), Problem> {
        Ok(())
    }
}

fn split(rest: &[String]) -> (Option<PathBuf>, Vec<String>) {
    let mut file = None;
    let mut flags = Vec::new();
    for word in rest {
        if file.is_none() && !word.starts_with('-') && flags.is_empty() {
            file = Some(PathBuf::from(word));
        } else {
            flags.push(word.clone());
        }
    }
    (file, flags)
}

fn to_json(problems: &Problems) -> serde_json::Value {
    let shown = problems.iter().map(|problem| {
        serde_json::json!({
            "severity": if problem.is_error() { "error" } else { "warning" },
            "path": problem.path,
            "source": problem.place.as_ref().map(|place| place.source.to_string()),
            "line": problem.place.as_ref().map(|place| place.line),
            "column": problem.place.as_ref().map(|place| place.column),
            "message": problem.message,
            "help": problem.help,
        })
    });
    serde_json::Value::Array(shown.collect())
}

/// Prints the effective static configuration.
pub fn print_config(flags: &[String]) -> Exit {
    let loaded = load::install(flags, environment());
    for problem in &loaded.problems {
        eprintln!("{problem}");
    }
    match print::effective(&loaded.install, None, Format::Toml) {
        Ok(text) => cli::tell(text),
        Err(problem) => eprintln!("{problem}"),
    }
    if loaded.problems.has_errors() { Exit::Invalid } else { Exit::Ok }
}

/// Prints the JSON Schema of configuration files, static and dynamic keys alike.
pub fn print_schema() -> Exit {
    cli::tell(format_args!("{:#}\n", json_schema::of_files()));
    Exit::Ok
}
