//! Which entry points a process that runs takes over from what is written now.

use std::collections::BTreeSet;

use super::deserialize::follows_from;
use super::entry_points::{EntryPoint, EntryPoints};
use super::install::Install;
use crate::problem::Problems;
use crate::units::Name;

/// The entry points that a process with the settings `running` shall have, now that others are `written`, with these problems.
///
/// What is not to change yet is as it was: an entry point that is written wrongly, and one that something of the gateway's own is
/// served at, of which this process does not know that it goes elsewhere. One that nobody wrote and that is there for such a thing
/// waits as well.
pub fn entry_points(running: &Install, written: &Install, problems: &Problems) -> EntryPoints {
    // Whatever hides all of them, and a file without any, is a mistake rather than the wish to close everything.
    let is_hidden = problems.iter().any(|problem| {
        problem.is_error() && follows_from("entryPoints", &problem.path) && !problem.path.starts_with("entryPoints.")
    });
    let is_written = |name: &Name| !written.unwritten_entry_points.contains(name);
    let is_any_written = !written.broken_entry_points.is_empty() || written.entry_points.keys().any(is_written);
    if is_hidden || !is_any_written {
        return running.entry_points.clone();
    }
    let in_use: BTreeSet<&str> = running.served_at().union(&running.proved_at()).copied().collect();
    let names: BTreeSet<&Name> = running.entry_points.keys().chain(written.entry_points.keys()).collect();
    let chosen = names.into_iter().filter_map(|name| {
        let before = running.entry_points.get(name);
        let after = written.entry_points.get(name);
        let chosen = match (before, after) {
            (before, _) if written.broken_entry_points.contains_key(name) => before?.clone(),
            (None, Some(_)) if !is_written(name) => return None,
            (Some(before), None) if in_use.contains(name.as_str()) => before.clone(),
            (Some(before), Some(after)) if in_use.contains(name.as_str()) && speaks_otherwise(before, after) => {
                before.clone()
            }
            (Some(before), Some(after)) => follow(before, after),
            (_, after) => after?.clone(),
        };
        Some((name.clone(), chosen))
    });
    chosen.collect()
}

fn speaks_otherwise(before: &EntryPoint, after: &EntryPoint) -> bool {
    before.address.protocol != after.address.protocol
}

fn follow(before: &EntryPoint, after: &EntryPoint) -> EntryPoint {
    // Others may have joined by now, and those who were there when the address was opened can still.
    let stays_shared = before.reuse_port && before.address == after.address;
    EntryPoint { reuse_port: after.reuse_port || stays_shared, ..after.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Format, load};

    /// `expected`: each entry point that is in force then, and where.
    fn check(running: &str, written: &str, expected: &[&str]) {
        let (running, problems) = load::install_text(running, Format::Yaml, "f");
        assert!(problems.is_empty(), "{problems}");
        let (written, problems) = load::install_text(written, Format::Yaml, "f");
        let found = entry_points(&running, &written, &problems);
        let found: Vec<_> = found.iter().map(|(name, one)| format!("{name} {}", one.address)).collect();
        assert_eq!(found, expected, "{problems}");
    }

    #[test]
    fn entry_points_come_go_and_change() {
        check(
            "entryPoints: {goes: {address: ':1'}, stays: {address: ':2'}, moves: {address: ':3'}}",
            "entryPoints: {stays: {address: ':2'}, moves: {address: ':4/udp'}, comes: {address: ':5'}}",
            &["comes :5", "moves :4/udp", "stays :2"],
        );
        check("{}", "entryPoints: {web: {address: ':80'}}", &["web :80"]);
    }

    #[test]
    fn what_is_wrong_changes_nothing_and_hides_nothing_else() {
        let running = "entryPoints: {a: {address: ':1'}, b: {address: ':2'}, c: {address: ':3'}}";
        check(
            running,
            "entryPoints: {a: {address: ':x'}, b: {address: ':4'}, d: {addres: ':5'}}\nthreads: 0",
            &["a :1", "b :4"],
        );
        check(running, "entryPoints: 7", &["a :1", "b :2", "c :3"]);
        check(running, "entrypoint: {a: {address: ':1'}}", &["a :1", "b :2", "c :3"]);
        check(running, "api: {}", &["a :1", "b :2", "c :3"]);
        check(running, "entryPoints: {a: {addres: ':1'}}", &["a :1"]);
        // To a broken one nothing can be redirected.
        let redirection = "{http: {redirections: {entryPoint: {to: c}}}, address: ':1'}";
        check(running, &format!("entryPoints: {{a: {redirection}, b: {{address: ':2'}}}}"), &["a :1", "b :2"]);
    }

    #[test]
    fn what_something_of_our_own_is_served_at_stays() {
        let running = "entryPoints: {a: {address: ':1'}, b: {address: ':2'}}\nping: {entryPoint: a}";
        check(running, "entryPoints: {b: {address: ':2'}}\nping: {entryPoint: b}", &["a :1", "b :2"]);
        check(running, "entryPoints: {b: {address: ':2'}}", &["a :1", "b :2"]);
        check(running, "entryPoints: {a: {address: ':3'}}\nping: {entryPoint: a}", &["a :3"]);
        let moved = "entryPoints: {a: {address: ':1/udp'}, b: {address: ':2'}}";
        check(running, moved, &["a :1", "b :2"]);
        // It is there for a ping that this process does not know of, and for one that it does.
        let written = "entryPoints: {a: {address: ':1'}}";
        check(written, &format!("{written}\nping: {{}}"), &["a :1"]);
        check(&format!("{written}\nping: {{}}"), written, &["a :1", "traefik :8080"]);
        let acme = "certificatesResolvers: {r: {acme: {email: a@b.test, storage: /s, httpChallenge: {entryPoint: a}}}}";
        check(&format!("{written}\n{acme}"), "entryPoints: {b: {address: ':2'}}", &["a :1", "b :2"]);
    }

    #[test]
    fn an_address_that_is_shared_stays_so_while_it_is_open() {
        let one = |text: &str| {
            let (install, _) = load::install_text(&format!("entryPoints: {{a: {{{text}}}}}"), Format::Yaml, "f");
            install
        };
        let shared = |before: &str, after: &str| {
            let found = entry_points(&one(before), &one(after), &Problems::new());
            found.values().all(|entry_point| entry_point.reuse_port)
        };
        assert!(shared("address: ':1'", "address: ':1', reusePort: true"));
        assert!(shared("address: ':1', reusePort: true", "address: ':1'"));
        assert!(!shared("address: ':1', reusePort: true", "address: ':2'"));
    }
}
