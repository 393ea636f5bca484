use super::*;
use ::log::Level as Said;

fn said(target: &str, level: Said) -> Option<Said> {
    said_at(&Metadata::builder().target(target).level(level).build())
}

#[test]
fn dependencies_are_quiet_and_never_show_headers() {
    for (target, level, expected) in [
        ("portcullis::control", Said::Trace, Some(Said::Trace)),
        ("portcullis", Said::Info, Some(Said::Info)),
        ("portcullis_like", Said::Debug, None),
        ("pingora_proxy::proxy_h1", Said::Error, Some(Said::Debug)),
        ("pingora_core::protocols::http::v2::client", Said::Warn, Some(Said::Debug)),
        ("pingora_core::server", Said::Info, Some(Said::Debug)),
        ("pingora_core::server", Said::Error, Some(Said::Error)),
        ("pingora_core::server", Said::Debug, None),
        ("h2::codec::framed_read", Said::Trace, None),
        ("h2x", Said::Warn, Some(Said::Warn)),
    ] {
        assert_eq!(said(target, level), expected, "{target} {level}");
    }
}

fn settings(path: &std::path::Path) -> Settings {
    Settings { file_path: path.to_str().unwrap().to_owned(), format: Some(Format::Common), ..Settings::default() }
}

fn say(sink: &Sink, text: &str) {
    sink.say(&Record::builder().target("portcullis").args(format_args!("{text}")).build(), Said::Info);
}

#[test]
fn writes_reopens_and_changes_destination() {
    let folder = tempfile::tempdir().unwrap();
    let (first, second) = (folder.path().join("a.log"), folder.path().join("b.log"));
    let sink = Sink::default();
    sink.configure(&settings(&first)).unwrap();
    say(&sink, "one");
    sink.flush();
    std::fs::rename(&first, folder.path().join("a.1")).unwrap();
    sink.state.load().as_ref().unwrap().writer.reopen(FLUSH_PATIENCE).unwrap();
    say(&sink, "two");
    sink.configure(&Settings { format: Some(Format::Json), ..settings(&second) }).unwrap();
    say(&sink, "three");
    sink.flush();
    let read = |path: &std::path::Path| std::fs::read_to_string(path).unwrap();
    assert!(read(&folder.path().join("a.1")).ends_with("INFO  one\n"));
    assert!(read(&first).ends_with("INFO  two\n"));
    assert!(read(&second).ends_with("\"message\":\"three\"}\n"));
    assert_eq!(sink.dropped.load(Ordering::Relaxed), 0);
}

#[test]
fn rotates_by_size() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.log");
    let sink = Sink::default();
    sink.configure(&Settings { max_size: 1, max_backups: 2, ..settings(&path) }).unwrap();
    let text = "x".repeat(4000);
    for _ in 0..600 {
        say(&sink, &text);
        sink.flush();
    }
    let sizes: Vec<u64> =
        std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len()).collect();
    assert!(sizes.len() >= 3, "{sizes:?}");
    assert!(sizes.iter().all(|size| *size <= MEGABYTE), "{sizes:?}");
}

#[test]
fn a_file_that_cannot_be_opened_is_a_problem_and_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.log");
    let sink = Sink::default();
    sink.configure(&settings(&path)).unwrap();
    let problem = sink.configure(&settings(std::path::Path::new("/nonexistent/b.log"))).unwrap_err();
    assert_eq!(problem.path, "filePath");
    say(&sink, "still here");
    sink.flush();
    assert!(std::fs::read_to_string(&path).unwrap().ends_with("still here\n"));
}
