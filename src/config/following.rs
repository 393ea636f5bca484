//! Which of the settings that are written now a process that runs takes over: its entry points, and what it serves by itself there.

use std::collections::BTreeSet;

use super::deserialize::follows_from;
use super::entry_points::EntryPoints;
use super::install::Install;
use super::own::Own;
use crate::problem::Problems;
use crate::units::Name;

/// The settings that a process with the settings `running` shall have, now that others are `written`, with these problems.
///
/// What is written wrongly is as it was, and so is an entry point at which something is served that cannot go elsewhere yet. All other
/// settings are as they were.
pub fn install(running: &Install, written: &Install, problems: &Problems) -> Install {
    let mut next = running.clone();
    // Whatever hides all of them, and a file without any, is a mistake rather than the wish to close everything.
    let is_hidden = problems.iter().any(|problem| {
        problem.is_error() && follows_from("entryPoints", &problem.path) && !problem.path.starts_with("entryPoints.")
    });
    let is_written = |name: &Name| !written.unwritten_entry_points.contains(name);
    let is_any_written = !written.broken_entry_points.is_empty() || written.entry_points.keys().any(is_written);
    if is_hidden || !is_any_written {
        return next;
    }
    for own in Own::all(running) {
        let setting = own.setting();
        if !problems.iter().any(|problem| problem.is_error() && follows_from(&setting, &problem.path)) {
            own.follow(&mut next, written);
        }
    }
    next.entry_points = entry_points(&next, written);
    next
}

/// The entry points, of those that there are and those that are written.
fn entry_points(next: &Install, written: &Install) -> EntryPoints {
    let in_use: BTreeSet<&str> = next.served_at().union(&next.proved_at()).copied().collect();
    let names: BTreeSet<&Name> = next.entry_points.keys().chain(written.entry_points.keys()).collect();
    let chosen = names.into_iter().filter_map(|name| {
        let (before, after) = (next.entry_points.get(name), written.entry_points.get(name));
        let is_in_use = in_use.contains(name.as_str());
        let chosen = match (before, after) {
            (before, _) if written.broken_entry_points.contains_key(name) => before?,
            // Nobody wrote it: it is there for the sake of something that this process does not serve there yet.
            (None, Some(_)) if written.unwritten_entry_points.contains(name) && !is_in_use => return None,
            (Some(before), None) if is_in_use => before,
            (Some(before), Some(after)) if is_in_use && before.address.protocol != after.address.protocol => before,
            (_, after) => after?,
        };
        Some((name.clone(), chosen.clone()))
    });
    chosen.collect()
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
        let found = install(&running, &written, &problems).entry_points;
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
    fn what_is_served_goes_where_it_is_written_to_be() {
        let running = "entryPoints: {a: {address: ':1'}, b: {address: ':2'}}\nping: {entryPoint: a}";
        check(running, "entryPoints: {b: {address: ':2'}}\nping: {entryPoint: b}", &["b :2"]);
        check(running, "entryPoints: {b: {address: ':2'}}", &["b :2"]);
        check(running, "entryPoints: {a: {address: ':3'}}\nping: {entryPoint: a}", &["a :3"]);
        check(running, "entryPoints: {a: {address: ':1/udp'}, b: {address: ':2'}}", &["a :1/udp", "b :2"]);
        // One that nobody wrote comes and goes with what is served there.
        let written = "entryPoints: {a: {address: ':1'}}";
        check(written, &format!("{written}\nping: {{}}"), &["a :1", "traefik :8080"]);
        check(&format!("{written}\nping: {{}}"), written, &["a :1"]);
        check(&format!("{written}\napi: {{insecure: true}}"), &format!("{written}\napi: {{}}"), &["a :1"]);
    }

    #[test]
    fn what_is_served_and_cannot_go_elsewhere_keeps_its_entry_point() {
        let written = "entryPoints: {b: {address: ':2'}}";
        let running = "entryPoints: {a: {address: ':1'}, b: {address: ':2'}}\nping: {entryPoint: a}";
        // A mistake.
        check(running, &format!("{written}\nping: {{entryPoint: a}}"), &["a :1", "b :2"]);
        check(running, &format!("{written}\nping: {{entryPoint: [b]}}"), &["a :1", "b :2"]);
        // Whether there are metrics at all is for an upgrade to say; where they are shown is not.
        let metrics = running.replace("ping: {entryPoint: a}", "metrics: {prometheus: {entryPoint: a}}");
        check(&metrics, written, &["a :1", "b :2"]);
        check(&metrics, &format!("{written}\nmetrics: {{prometheus: {{entryPoint: b}}}}"), &["b :2"]);
        check(written, &format!("{written}\nmetrics: {{prometheus: {{}}}}"), &["b :2"]);
        // Nor who gets certificates.
        let acme = |at: &str| {
            let challenge = format!("httpChallenge: {{entryPoint: {at}}}");
            format!("certificatesResolvers: {{r: {{acme: {{email: a@b.test, storage: /s, {challenge}}}}}}}")
        };
        let proving = running.replace("ping: {entryPoint: a}", &acme("a"));
        check(&proving, written, &["a :1", "b :2"]);
        check(&proving, &format!("{written}\n{}", acme("b")), &["b :2"]);
    }
}
