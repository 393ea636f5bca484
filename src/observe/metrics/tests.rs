use super::*;

fn metrics(settings: &str) -> Metrics {
    Metrics::new(&serde_json::from_str(settings).unwrap(), 2)
}

#[test]
fn a_reload_goes_on_with_the_same_meters() {
    let metrics = metrics(r#"{"prometheus":{"addRoutersLabels":true}}"#);
    let service = metrics.service("a@file");
    assert!(Arc::ptr_eq(&service, &metrics.service("a@file")));
    assert!(!Arc::ptr_eq(&service, &metrics.service("b@file")));
    let router = metrics.router("r@file", "a@file").unwrap();
    assert!(Arc::ptr_eq(&router, &metrics.router("r@file", "a@file").unwrap()));
    assert!(!Arc::ptr_eq(&router, &metrics.router("r@file", "b@file").unwrap()));
    // Names that only look alike when put together are names apart.
    assert!(!Arc::ptr_eq(&metrics.router("ab", "c").unwrap(), &metrics.router("a", "bc").unwrap()));
}

#[test]
fn only_what_is_asked_for() {
    let asked = metrics(r#"{"prometheus":{"addServicesLabels":false}}"#);
    assert!(asked.router("r", "s").is_none());
    drop(asked.service("s"));
    assert!(asked.services.lock().meters.is_empty());
    let nothing = metrics("{}");
    assert!(nothing.router("r", "s").is_none() && !nothing.count_internals());
}

#[test]
fn reloads_that_nobody_scrapes_do_not_fill_the_memory() {
    let metrics = metrics(r#"{"prometheus":{}}"#);
    let kept: Vec<_> = (0..10).map(|number| metrics.service(&format!("kept {number}"))).collect();
    for number in 0..100_000 {
        metrics.service(&format!("gone {number}"));
    }
    assert!(metrics.services.lock().meters.len() <= MIN_PRUNE);
    for (number, service) in kept.iter().enumerate() {
        assert!(Arc::ptr_eq(service, &metrics.service(&format!("kept {number}"))));
    }
}

#[test]
fn what_is_used_again_is_not_removed() {
    let metrics = metrics(r#"{"prometheus":{}}"#);
    drop((metrics.service("a"), metrics.service("b")));
    let (used, unused) = metrics.services.lock().all();
    assert_eq!((used.len(), unused.len()), (0, 2));
    let again = metrics.service("a");
    metrics.services.lock().remove(unused);
    let (used, unused) = metrics.services.lock().all();
    assert_eq!((used.len(), unused.len()), (1, 0));
    assert!(Arc::ptr_eq(&used[0], &again));
}
