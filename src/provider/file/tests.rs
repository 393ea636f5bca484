//! The provider at work, in folders that are changed the way people, editors and tools do it.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::*;
use crate::control::{Inbox, Published};

/// No condition takes longer, however busy the machine is.
const DEADLINE: Duration = Duration::from_secs(20);

/// Writes a text in some way.
type Way = fn(&Setup, &str);

/// A provider and what it publishes.
struct Setup {
    folder: tempfile::TempDir,
    inbox: Arc<Inbox>,
    file: Arc<File>,
}

impl Setup {
    /// Reads a folder that holds these files.
    fn folder(files: &[(&str, String)]) -> Self {
        Self::new(files, |root| Settings { directory: root.to_owned(), ..Settings::default() })
    }

    /// Reads the single file `app.yaml`.
    fn file(text: String) -> Self {
        Self::new(&[("app.yaml", text)], |root| Settings::only(&root.join("app.yaml")))
    }

    fn new(files: &[(&str, String)], settings: impl Fn(&Path) -> Settings) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = Arc::new(File::new(settings(folder.path())).unwrap());
        let setup = Self { folder, inbox: Arc::default(), file };
        for (name, text) in files {
            setup.write(name, text);
        }
        setup.read();
        setup
    }

    fn updates(&self) -> Updates {
        self.inbox.updates(NAME)
    }

    fn read(&self) {
        self.file.read(&self.updates());
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn published(&self) -> Published {
        self.inbox.contents().published.remove(NAME).expect("nothing is published")
    }

    /// Rules in the order of their routers' names.
    fn rules(&self) -> Vec<String> {
        self.published().routing.http.routers.values().map(|router| router.rule.to_string()).collect()
    }

    fn problems(&self) -> String {
        let folder = format!("{}/", self.folder.path().display());
        self.published().problems.to_string().replace(&folder, "")
    }

    /// Watches while `change` is done, and until `condition` holds.
    fn watch(&self, change: impl FnOnce(&Self), condition: impl Fn(&Self) -> bool) -> usize {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        runtime.block_on(async {
            // What was published before does not count.
            let _ = tokio::time::timeout(Duration::ZERO, self.inbox.changed()).await;
            let publications = Arc::new(AtomicUsize::new(0));
            let (inbox, counter) = (self.inbox.clone(), publications.clone());
            tokio::spawn(async move {
                loop {
                    inbox.changed().await;
                    counter.fetch_add(1, Ordering::Relaxed);
                }
            });
            self.file.clone().watch(self.updates()).unwrap();
            change(self);
            let start = Instant::now();
            while !condition(self) {
                assert!(start.elapsed() < DEADLINE, "{:?}\n{}", self.rules(), self.problems());
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            publications.load(Ordering::Relaxed)
        })
    }
}

fn router(name: &str, path: &str) -> String {
    format!("http:\n  routers:\n    {name}:\n      rule: Path(`{path}`)\n      service: x\n")
}

fn rule(path: &str) -> String {
    format!("Path(`{path}`)")
}

#[test]
fn settings_must_name_something() {
    let problem = File::new(Settings::default()).err().unwrap();
    assert_eq!(problem.to_string(), "error: there is nothing to read (set `filename` or `directory`)");
    let settings: Settings =
        serde_json::from_str(r#"{"filename": "a.yaml", "debugLogGeneratedTemplate": true}"#).unwrap();
    assert!(settings.watch && settings.debug_log_generated_template);
}

#[test]
fn both_settings_mean_the_folder() {
    let setup = Setup::new(&[("d/a.yaml", router("a", "/a")), ("b.yaml", router("b", "/b"))], |root| Settings {
        directory: root.join("d"),
        filename: root.join("b.yaml"),
        ..Settings::default()
    });
    assert_eq!(setup.rules(), [rule("/a")]);
    let notice = "warning: providers.file.filename: is not read, because `directory` is set\n";
    assert_eq!(setup.problems(), notice);
}

#[test]
fn a_folder_is_the_sum_of_its_files() {
    let toml = "[http.routers.c]\nrule = \"Path(`/c`)\"\nservice = \"x\"\n".to_owned();
    let json = r#"{"http": {"routers": {"d": {"rule": "Path(`/d`)", "service": "x"}}}}"#.to_owned();
    let template = router("{{ upper `e` }}", "/{{ add 1 1 }}");
    let files = [
        ("a.yaml", router("a", "/a")),
        ("sub/b.yml", router("b", "/b")),
        ("c.toml", toml),
        ("d.json", json),
        ("e.yaml", template),
    ];
    let setup = Setup::folder(&files);
    assert_eq!(setup.rules(), [rule("/2"), rule("/a"), rule("/b"), rule("/c"), rule("/d")]);
    assert_eq!(setup.problems(), "");
}

#[test]
fn a_bad_file_takes_no_other_down_and_keeps_its_last_good_version() {
    let setup =
        Setup::folder(&[("a.yaml", router("a", "/a")), ("b.yaml", router("b", "/b")), ("c.yaml", "a: [".into())]);
    assert_eq!(setup.rules(), [rule("/a"), rule("/b")]);
    assert!(setup.problems().starts_with("c.yaml:1:4: error: "), "{}", setup.problems());
    setup.write("a.yaml", &router("a", "/a2"));
    setup.write("b.yaml", "http: {{ nothing }}");
    setup.read();
    assert_eq!(setup.rules(), [rule("/a2"), rule("/b")]);
    let said =
        "b.yaml:1:10: error: template: there is no function called `nothing` (what was read before stays in force)";
    assert!(setup.problems().contains(said), "{}", setup.problems());
    assert!(!setup.published().failed);
    setup.write("b.yaml", &router("b", "/b2"));
    fs::remove_file(setup.path("c.yaml")).unwrap();
    setup.read();
    assert_eq!(setup.rules(), [rule("/a2"), rule("/b2")]);
    assert_eq!(setup.problems(), "");
}

#[test]
fn a_single_bad_file_fails_and_changes_nothing() {
    let setup = Setup::file(router("a", "/a"));
    setup.write("app.yaml", "a: [");
    setup.read();
    assert!(setup.published().failed);
    assert_eq!(setup.rules(), [rule("/a")]);
    setup.write("app.yaml", &router("a", "/a"));
    setup.read();
    assert!(!setup.published().failed);
    assert_eq!(setup.problems(), "");
    fs::remove_file(setup.path("app.yaml")).unwrap();
    setup.read();
    assert!(setup.problems().starts_with("app.yaml: error: cannot be read: "), "{}", setup.problems());
    assert_eq!(setup.rules(), [rule("/a")]);
}

#[test]
fn nothing_there_at_the_start_fails() {
    let setup = Setup::new(&[], |root| Settings::only(&root.join("none.yaml")));
    assert!(setup.published().failed);
    let setup = Setup::new(&[], |root| Settings { directory: root.join("none"), ..Settings::default() });
    assert!(setup.published().failed);
    assert!(setup.problems().starts_with("none: error: cannot be read: "), "{}", setup.problems());
    let setup = Setup::folder(&[]);
    assert!(!setup.published().failed);
}

#[test]
fn places_are_found_in_the_file_that_was_read() {
    let setup = Setup::folder(&[("a.yaml", router("a", "/a")), ("b.yaml", router("b", "/b"))]);
    let place = setup.published().locate.unwrap().locate("http.routers.b.rule").unwrap();
    assert_eq!(place.to_string(), format!("{}:4:7", setup.path("b.yaml").display()));
}

#[test]
fn every_way_to_write_is_noticed() {
    let setup = Setup::file(router("a", "/0"));
    let ways: [(&str, Way); 6] = [
        ("truncate and write", |setup, text| setup.write("app.yaml", text)),
        ("rename over it", |setup, text| {
            setup.write(".app.yaml.tmp", text);
            fs::rename(setup.path(".app.yaml.tmp"), setup.path("app.yaml")).unwrap();
        }),
        ("move away, write anew", |setup, text| {
            fs::rename(setup.path("app.yaml"), setup.path("app.yaml~")).unwrap();
            setup.write("app.yaml", text);
        }),
        ("delete, write anew", |setup, text| {
            fs::remove_file(setup.path("app.yaml")).unwrap();
            setup.write("app.yaml", text);
        }),
        ("become a link", |setup, text| {
            setup.write("elsewhere/real.yaml", text);
            fs::remove_file(setup.path("app.yaml")).unwrap();
            symlink(setup.path("elsewhere/real.yaml"), setup.path("app.yaml")).unwrap();
        }),
        ("write behind the link", |setup, text| setup.write("elsewhere/real.yaml", text)),
    ];
    for (index, (way, change)) in ways.into_iter().enumerate() {
        let path = format!("/{}", index + 1);
        let start = Instant::now();
        setup.watch(|setup| change(setup, &router("a", &path)), |setup| setup.rules() == [rule(&path)]);
        assert_eq!(setup.problems(), "", "{way}, after {:?}", start.elapsed());
    }
}

#[test]
fn a_swapped_link_is_noticed() {
    let versions = [("..v1/app.yaml", router("a", "/1")), ("..v2/app.yaml", router("a", "/2"))];
    let setup = Setup::new(&versions, |root| Settings { directory: root.to_owned(), ..Settings::default() });
    symlink("..v1", setup.path("..data")).unwrap();
    symlink("..data/app.yaml", setup.path("app.yaml")).unwrap();
    setup.read();
    assert_eq!(setup.rules(), [rule("/1")]);
    let swap = |setup: &Setup| {
        symlink("..v2", setup.path("..data_tmp")).unwrap();
        fs::rename(setup.path("..data_tmp"), setup.path("..data")).unwrap();
    };
    setup.watch(swap, |setup| setup.rules() == [rule("/2")]);
}

#[test]
fn files_come_and_go_in_folders_that_come_and_go() {
    let setup = Setup::folder(&[("a.yaml", router("a", "/a"))]);
    setup.watch(|setup| setup.write("new/deep/b.yaml", &router("b", "/b")), |setup| setup.rules().len() == 2);
    setup.watch(|setup| fs::remove_dir_all(setup.path("new")).unwrap(), |setup| setup.rules() == [rule("/a")]);
    let moved = |setup: &Setup| {
        setup.write("ready.d/c.yaml", &router("c", "/c"));
        fs::rename(setup.path("a.yaml"), setup.path("z.yaml")).unwrap();
    };
    setup.watch(moved, |setup| setup.rules() == [rule("/a"), rule("/c")]);
    assert_eq!(setup.problems(), "");
}

#[test]
fn a_missing_folder_fails_and_changes_nothing() {
    let setup = Setup::new(&[("d/a.yaml", router("a", "/a"))], |root| Settings {
        directory: root.join("d"),
        ..Settings::default()
    });
    let away = |setup: &Setup| fs::rename(setup.path("d"), setup.path("e")).unwrap();
    setup.watch(away, |setup| setup.published().failed);
    assert_eq!(setup.rules(), [rule("/a")]);
    let back = |setup: &Setup| {
        setup.write("e/b.yaml", &router("b", "/b"));
        fs::rename(setup.path("e"), setup.path("d")).unwrap();
    };
    setup.watch(back, |setup| setup.rules() == [rule("/a"), rule("/b")]);
    setup.watch(
        |setup| setup.write("d/b.yaml", &router("b", "/b2")),
        |setup| setup.rules() == [rule("/a"), rule("/b2")],
    );
    assert_eq!(setup.problems(), "");
}

#[test]
fn a_half_written_file_is_not_believed() {
    let setup = Setup::file(router("a", "/1"));
    let slowly = |setup: &Setup| {
        let mut file = fs::File::create(setup.path("app.yaml")).unwrap();
        for part in ["http:\n  routers:\n    a: {rule: \"Pa", "th(`/2`)\"", ", service: x}\n"] {
            file.write_all(part.as_bytes()).unwrap();
            // The pace of a slow writer is what is tested here.
            std::thread::sleep(Duration::from_millis(20));
            assert_eq!(setup.problems(), "");
            assert_eq!(setup.rules().len(), 1);
        }
    };
    let publications = setup.watch(slowly, |setup| setup.rules() == [rule("/2")]);
    assert!(publications <= 1, "{publications}");
    assert_eq!(setup.problems(), "");
}

#[test]
fn a_mistake_is_reported_and_mended() {
    let setup = Setup::file(router("a", "/1"));
    setup.watch(|setup| setup.write("app.yaml", "a: ["), |setup| setup.published().failed);
    assert_eq!(setup.rules(), [rule("/1")]);
    setup.watch(|setup| setup.write("app.yaml", &router("a", "/2")), |setup| setup.rules() == [rule("/2")]);
    assert_eq!(setup.problems(), "");
}

#[test]
fn what_may_not_be_read_stays_as_it_was() {
    let setup = Setup::file(router("a", "/1"));
    let set_mode = |setup: &Setup, mode| {
        fs::set_permissions(setup.path("app.yaml"), fs::Permissions::from_mode(mode)).unwrap();
    };
    set_mode(&setup, 0o000);
    if fs::read(setup.path("app.yaml")).is_ok() {
        // Permissions do not bind root.
        return;
    }
    setup.watch(|_| (), |setup| setup.published().failed);
    assert_eq!(setup.rules(), [rule("/1")]);
    setup.watch(|setup| set_mode(setup, 0o600), |setup| !setup.published().failed);
    assert_eq!(setup.problems(), "");
}

#[test]
fn a_burst_of_writes_leads_to_few_publications() {
    let setup = Setup::folder(&[("a.yaml", router("a", "/0"))]);
    let burst = |setup: &Setup| {
        for version in 1..=20 {
            setup.write("a.yaml", &router("a", &format!("/{version}")));
        }
    };
    let publications = setup.watch(burst, |setup| setup.rules() == [rule("/20")]);
    assert!(publications <= 4, "{publications}");
}

#[test]
fn an_emptied_file_is_believed_after_a_while() {
    let setup = Setup::file(router("a", "/1"));
    setup.watch(|setup| setup.write("app.yaml", ""), |setup| setup.rules().is_empty());
    assert_eq!(setup.problems(), "");
}

#[test]
fn what_is_not_reported_is_looked_for() {
    let setup = Setup::folder(&[("a.yaml", router("a", "/1"))]);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let heard = Arc::new(ears::Heard::default());
        let looking = watch::run(setup.file.clone(), setup.updates(), heard.clone(), ears::Ears::deaf(heard));
        let looking = tokio::spawn(looking);
        setup.write("a.yaml", &router("a", "/2"));
        setup.write("sub/b.yaml", &router("b", "/3"));
        let start = Instant::now();
        while setup.rules() != [rule("/2"), rule("/3")] {
            assert!(start.elapsed() < DEADLINE, "{:?}", setup.rules());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        looking.abort();
    });
}

#[test]
fn watching_can_be_switched_off() {
    let settings = |root: &Path| Settings { watch: false, ..Settings::only(&root.join("app.yaml")) };
    let setup = Setup::new(&[("app.yaml", router("a", "/1"))], settings);
    // Needs no runtime, because nothing is started.
    setup.file.clone().watch(setup.updates()).unwrap();
}
