use std::os::unix::fs::PermissionsExt;

use super::*;

fn resolver(storage: &str) -> Resolver {
    let settings = Acme::default();
    let parts = (super::super::web(&settings).unwrap(), None);
    Resolver::new("le", settings, Storage::new(storage), parts, Default::default())
}

#[tokio::test]
async fn a_storage_that_goes_bad_on_the_way_is_tried_again_soon() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("acme.json");
    std::fs::write(&path, "{").unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    let resolver = Arc::new(resolver(path.to_str().unwrap()));
    let mut mind = Mind::default();
    let mut wake = Instant::now() + LOOKS_EVERY;
    resolver.begin(&mut mind, &mut JoinSet::new(), Vec::new(), &mut wake).await;
    assert!(mind.storage.is_some() && wake <= Instant::now() + STORAGE_AGAIN);
}

#[tokio::test]
async fn a_refusal_that_could_not_be_written_is_written_later() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("acme.json");
    let resolver = Arc::new(resolver(path.to_str().unwrap()));
    let (mut mind, mut tasks) = (Mind::default(), JoinSet::new());
    let updates = Arc::new(crate::control::Inbox::default()).updates("le.acme");
    let kept = || resolver.storage.remembered("le").len();
    let failure =
        Failure::Refused { kind: "unauthorized".to_owned(), detail: "no".to_owned(), about: None, retry_after: None };
    let other = Storage::new(path.to_str().unwrap());
    let held = other.hold().unwrap().unwrap();
    resolver.note_failure(&mut mind, vec!["a.test".into()], failure);
    resolver.remember(&mut mind).await;
    let wake = resolver.step(&mut mind, &mut tasks, &updates).await;
    assert!(kept() == 0 && mind.unkept.is_some() && wake <= Instant::now() + STORAGE_AGAIN);
    drop(held);
    resolver.step(&mut mind, &mut tasks, &updates).await;
    assert!(kept() == 1 && mind.unkept.is_none());
}

#[test]
fn an_order_that_broke_down_is_not_begun_again_at_once() {
    let resolver = resolver("acme.json");
    let names: Names = vec!["a.test".into()];
    let other: Names = vec!["b.test".into()];
    let mut mind =
        Mind { running: vec![names.clone(), other.clone()], asking: vec!["x".to_owned()], ..Mind::default() };
    for work in [Some(Work::Order(names.clone())), Some(Work::Ask("x".to_owned())), None] {
        resolver.note_breakdown(&mut mind, work);
    }
    // The others go on.
    assert!(mind.running == [other] && mind.asking.is_empty() && mind.windows.contains_key("x"));
    assert!(mind.patience.until(&names).is_some_and(|until| until > Instant::now() + Duration::from_secs(10)));
    assert_eq!(resolver.problems(&mind).len(), 1);
}
