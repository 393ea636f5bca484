//! The house stays as it is drawn: who may use whom, no file that nothing includes, an example of every part.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use portcullis::middleware;
use portcullis::rule::matcher;
use portcullis::service::strategy;

/// The floor plan, from the ground up: each module and what it may use. What is not here is not allowed. ARCHITECTURE.md draws
/// the same.
const PLAN: &[(&str, &[&str])] = &[
    // 0: what is wrong and where; durations, networks, names, secrets.
    ("problem", &[]),
    ("units", &[]),
    // 1: one request, as parts may see it; what we tell the world.
    ("exchange", &[]),
    ("observe", &["exchange", "problem", "units"]),
    // 2: the parts; none uses another.
    ("rule", &["exchange", "units"]),
    ("middleware", &["exchange", "problem", "units"]),
    ("tls", &["exchange", "problem", "units"]),
    ("service", &["exchange", "observe", "problem", "units"]),
    // 3: as written, from the parts' own settings; as built.
    ("config", &["middleware", "observe", "problem", "service", "tls", "units"]),
    ("snapshot", &["exchange", "middleware", "observe", "rule", "service", "tls", "units"]),
    // 3, too: requests of our own, to servers that prove who they are.
    ("web", &["tls"]),
    // 4: configuration in motion; bytes in motion. Neither knows the other.
    ("control", &["config", "middleware", "observe", "problem", "rule", "service", "snapshot", "tls", "units"]),
    ("traffic", &["exchange", "middleware", "observe", "service", "snapshot", "tls", "units"]),
    // 5: what operators read; where configuration comes from; the life of the process.
    ("admin", &["config", "control", "exchange", "middleware", "observe", "problem", "service", "units"]),
    ("provider", &["config", "control", "exchange", "middleware", "problem", "service", "tls", "units", "web"]),
    ("stapling", &["config", "control", "observe", "problem", "tls", "web"]),
    ("process", &["problem", "units"]),
    // 6: the only ones that know everyone.
    ("app", &["*"]),
    ("check", &["*"]),
    ("cli", &["*"]),
    ("demo", &["*"]),
    ("explain", &["*"]),
    ("health", &["*"]),
    ("main", &["*"]),
];

/// Middlewares that need no example, and why.
const WITHOUT_EXAMPLE: &[(&str, &str)] = &[("ipWhiteList", "the old name of ipAllowList")];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn sources(folder: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|ending| ending == "rs") {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

/// `src/a/b.rs` → [`a`, `b`]; `src/a/mod.rs` and `src/a.rs` → [`a`].
fn module(path: &Path) -> Vec<String> {
    let path = path.strip_prefix(root().join("src")).unwrap().with_extension("");
    let mut names: Vec<String> = path.iter().map(|name| name.to_str().unwrap().to_owned()).collect();
    if names.last().is_some_and(|name| name == "mod") {
        names.pop();
    }
    names
}

fn without_comments(text: &str) -> String {
    text.lines().filter(|line| !line.trim_start().starts_with("//")).flat_map(|line| [line, "\n"]).collect()
}

fn identifier(text: &str) -> &str {
    let end = text.find(|char: char| !char.is_alphanumeric() && char != '_').unwrap_or(text.len());
    &text[..end]
}

/// The first names behind `crate::`, of `crate::{a::b, c}` too.
fn used(code: &str) -> BTreeSet<&str> {
    let mut names = BTreeSet::new();
    for (at, _) in code.match_indices("crate::") {
        let rest = &code[at + "crate::".len()..];
        let Some(list) = rest.strip_prefix('{') else {
            names.insert(identifier(rest));
            continue;
        };
        let mut depth = 0;
        let mut is_first = true;
        for (at, char) in list.char_indices() {
            match char {
                '{' => depth += 1,
                '}' if depth == 0 => break,
                '}' => depth -= 1,
                ',' if depth == 0 => is_first = true,
                _ if char.is_whitespace() => {}
                _ => {
                    if is_first && depth == 0 {
                        names.insert(identifier(&list[at..]));
                    }
                    is_first = false;
                }
            }
        }
    }
    names
}

#[test]
fn used_names_are_found() {
    let code =
        "use crate::a::b;\nuse crate::{\n    c::{d, e},\n    f,\n};\nfn g() { $crate::h::i() } pub(crate) fn j() {}";
    assert_eq!(used(code), BTreeSet::from(["a", "c", "f", "h"]));
    assert_eq!(used(&without_comments("/// See [`crate::a`].\n  // crate::b\nuse crate::c;")), BTreeSet::from(["c"]));
}

#[test]
fn modules_use_only_what_the_floor_plan_allows() {
    let plan: BTreeMap<&str, BTreeSet<&str>> =
        PLAN.iter().map(|(module, uses)| (*module, uses.iter().copied().collect())).collect();
    let mut not_drawn = Vec::new();
    for path in sources("src") {
        let here = module(&path);
        let Some(top) = here.first().filter(|top| *top != "lib") else { continue };
        let code = without_comments(&fs::read_to_string(&path).unwrap());
        let Some(allowed) = plan.get(&**top) else {
            not_drawn.push(format!("{}: `{top}` is not in the plan", path.display()));
            continue;
        };
        for name in used(&code) {
            if name != top && !allowed.contains(name) && !allowed.contains("*") {
                not_drawn.push(format!("{}: `{top}` may not use `{name}`", path.display()));
            }
        }
        // The other way out of a module: more `super` than there are floors.
        for (number, line) in code.lines().enumerate() {
            let levels = line.matches("super::").count();
            let within = here.len() + usize::from(line.starts_with(' '));
            if line.contains(&"super::".repeat(levels.max(1))) && levels >= within {
                not_drawn.push(format!("{}: line {} of code leaves `{top}` by `super`", path.display(), number + 1));
            }
        }
    }
    assert!(not_drawn.is_empty(), "not in the floor plan:\n{}", not_drawn.join("\n"));
}

/// Follows the `mod` lines from `file`; `folder` is where its modules lie.
fn follow(file: &Path, folder: &Path, found: &mut BTreeSet<PathBuf>) {
    found.insert(file.to_owned());
    for line in without_comments(&fs::read_to_string(file).unwrap()).lines() {
        let Some(declared) = line.trim().strip_suffix(';') else { continue };
        let declared = declared.rsplit_once(") ").map_or(declared, |(_, rest)| rest);
        let declared = declared.strip_prefix("pub ").unwrap_or(declared);
        let Some(name) = declared.strip_prefix("mod ") else { continue };
        let flat = folder.join(format!("{name}.rs"));
        let file = if flat.exists() { flat } else { folder.join(name).join("mod.rs") };
        follow(&file, &folder.join(name), found);
    }
}

#[test]
fn no_file_is_dead() {
    let mut alive = BTreeSet::new();
    for start in
        ["src/lib.rs", "src/main.rs", "tests/it/main.rs", "load-tests/drill/main.rs", "load-tests/gauge/main.rs"]
    {
        let file = root().join(start);
        follow(&file, file.parent().unwrap(), &mut alive);
    }
    let folders = ["src", "tests", "load-tests/drill", "load-tests/gauge"];
    let dead: Vec<_> = folders.iter().flat_map(|folder| sources(folder)).filter(|path| !alive.contains(path)).collect();
    assert!(dead.is_empty(), "no `mod` line leads to {dead:?}");

    let manifest = fs::read_to_string(root().join("Cargo.toml")).unwrap();
    for path in sources("benches") {
        let name = path.file_stem().unwrap().to_str().unwrap();
        assert!(manifest.contains(&format!("name = \"{name}\"")), "no [[bench]] in Cargo.toml for {name}");
    }
}

/// The version of a crate in a lock file.
fn locked<'l>(lock: &'l str, name: &str) -> &'l str {
    let start = format!("name = \"{name}\"\nversion = \"");
    lock.split(&start).nth(1).and_then(|rest| rest.split('"').next()).unwrap_or_else(|| panic!("no {name}"))
}

#[test]
fn fuzz_targets_are_built_and_compare_with_the_parsers_of_the_gateway() {
    let read = |path: &str| fs::read_to_string(root().join(path)).unwrap();
    let manifest = read("fuzz/Cargo.toml");
    for path in sources("fuzz/fuzz_targets") {
        let name = path.file_stem().unwrap().to_str().unwrap();
        assert!(manifest.contains(&format!("name = \"{name}\"")), "no [[bin]] in fuzz/Cargo.toml for {name}");
        let seeds = root().join("fuzz/seeds").join(name);
        assert!(fs::read_dir(&seeds).is_ok_and(|seeds| seeds.count() > 0), "no examples in {}", seeds.display());
    }
    let (ours, theirs) = (read("fuzz/Cargo.lock"), read("Cargo.lock"));
    for parser in ["h2", "httparse"] {
        assert_eq!(
            locked(&ours, parser),
            locked(&theirs, parser),
            "cargo update --manifest-path fuzz/Cargo.toml {parser}"
        );
    }
}

/// Whether a file that belongs to this module has this test, and it runs.
fn has_test(path: &str) -> bool {
    let (modules, function) = path.rsplit_once("::").unwrap_or_default();
    let modules = modules.replace("::", "/");
    let files =
        ["tests/it/{}.rs", "src/{}.rs", "src/{}/tests.rs", "src/{}/mod.rs"].map(|file| file.replace("{}", &modules));
    files.iter().filter_map(|file| fs::read_to_string(root().join(file)).ok()).any(|text| runs(&text, function))
}

/// Whether a text has a function of this name that is a test, and none that is passed over.
fn runs(text: &str, function: &str) -> bool {
    let heads = [format!("fn {function}() {{"), format!("async fn {function}() {{")];
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let found = lines.iter().enumerate().filter(|(_, line)| heads.iter().any(|head| head == *line));
    found.into_iter().any(|(at, _)| {
        // What stands between the item before and the function: attributes, perhaps of several lines, and comments.
        let ends_something = |line: &&&str| line.is_empty() || line.ends_with(['{', '}', ';']);
        let above = lines[..at].iter().rev().take_while(|line| !ends_something(line));
        let attributes: Vec<&str> = above.copied().filter(|line| !line.starts_with("//")).collect();
        let is_test = |line: &&str| *line == "#[test]" || line.starts_with("#[tokio::test");
        let is_passed_over = |line: &&str| {
            line.starts_with("#[ignore")
                || line.starts_with("#[cfg(any())")
                || (line.starts_with("#[cfg_attr") && line.contains("ignore"))
        };
        attributes.iter().any(is_test) && !attributes.iter().any(is_passed_over)
    })
}

#[test]
fn only_tests_that_run_are_found() {
    let long = "#[tokio::test(flavor = \"multi_thread\")]\n#[expect(\n    clippy::x,\n    reason = \"y\"\n)]\n";
    for (above, expected) in [
        ("#[test]\n", true),
        ("#[tokio::test]\n", true),
        ("}\n\n/// Why.\n#[test]\n// More.\n", true),
        (long, true),
        ("", false),
        ("/// #[test]\n", false),
        ("#[test]\nfn b() {}\n\n", false),
        ("#[test]\nfn b() {}\n", false),
        ("#[inline]\n", false),
        ("#[test]\n#[ignore]\n", false),
        ("#[ignore = \"it is slow\"]\n#[tokio::test]\n", false),
        ("#[test]\n#[cfg_attr(unix, ignore)]\n", false),
        ("#[test]\n#[cfg(any())]\n", false),
        ("#[test]\n// ", false),
    ] {
        for head in ["fn a() {", "    async fn a() {"] {
            assert_eq!(runs(&format!("{above}{head}\n}}\n"), "a"), expected, "{above}{head}");
        }
    }
    assert!(!runs("#[test]\nfn ab() {\n}\n#[test]\nfn c() { a() }\n", "a"));
}

#[test]
fn attacks_are_held_by_tests_that_there_are() {
    let page = fs::read_to_string(root().join("SECURITY.md")).unwrap();
    let table = page.split("## Which test holds what").nth(1).expect("the table");
    let rows: Vec<_> = table.lines().filter_map(|line| line.strip_prefix("| ")?.split_once(" | ")).skip(1).collect();
    assert!(rows.len() > 20);
    for (attack, tests) in rows.into_iter().filter(|(attack, _)| *attack != "attack") {
        let named: Vec<_> = tests.split('`').skip(1).step_by(2).collect();
        assert!(!named.is_empty(), "{attack}");
        for test in named {
            let is_there = match test.strip_prefix("fuzz ") {
                Some(target) => root().join("fuzz/fuzz_targets").join(target).with_extension("rs").exists(),
                None => has_test(test),
            };
            assert!(is_there, "{attack}: there is no test {test}");
        }
    }
}

#[test]
fn every_part_has_an_example() {
    let examples: String = fs::read_dir(root().join("conf/examples"))
        .unwrap()
        .map(|entry| fs::read_to_string(entry.unwrap().path()).unwrap())
        .collect();
    let exempt = |kind: &str| WITHOUT_EXAMPLE.iter().any(|(name, _)| *name == kind);
    let middlewares = middleware::Settings::KINDS
        .iter()
        .filter(|kind| !exempt(kind))
        .filter(|kind| !examples.contains(&format!(" {kind}:")) && !examples.contains(&format!(".{kind}]")));
    let matchers = matcher::NAMES.iter().filter(|name| !examples.contains(&format!("{name}(`")));
    let strategies = strategy::Kind::NAMES.iter().filter(|name| !examples.contains(&format!(" strategy: {name}")));
    let missing: Vec<_> = middlewares.chain(matchers).chain(strategies).collect();
    assert!(missing.is_empty(), "conf/examples has no example of {missing:?}");
}
