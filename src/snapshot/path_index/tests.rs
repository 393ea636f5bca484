use proptest::prelude::*;

use super::*;

fn index(paths: &[(u32, &'static str)]) -> PathIndex {
    let roots = paths.iter().map(|(root, _)| root + 1).max().unwrap_or(1);
    let keys = paths.iter().enumerate().map(|(rank, (root, path))| {
        let (exact, path) = path.strip_prefix('=').map_or((false, *path), |path| (true, path));
        (*root, path, exact, Candidate::new(rank as u32, false))
    });
    build(roots, keys)
}

fn build<'p>(roots: u32, keys: impl Iterator<Item = (u32, &'p str, bool, Candidate)>) -> PathIndex {
    let mut text = String::new();
    let keys = keys.map(|(root, path, exact, candidate)| {
        let start = text.len() as u32;
        text.push_str(path);
        Key { root, path: (start, text.len() as u32), exact, candidate }
    });
    let keys = keys.collect();
    PathIndex::build(roots, &text, keys)
}

fn reached(index: &PathIndex, root: u32, path: &str) -> Vec<u32> {
    let mut ranks = Vec::new();
    index.walk(root, path.as_bytes(), &mut |run| {
        ranks.extend(run.iter().map(|candidate| candidate.rank()));
    });
    ranks.sort_unstable();
    ranks
}

#[test]
fn a_name_may_begin_with_a_dot() {
    let index = index(&[(0, "/.well-known/acme-challenge/"), (0, "=/.git"), (0, "/a/.b"), (0, "/./x")]);
    for (path, expected) in [
        ("/.well-known/acme-challenge/x", &[0][..]),
        ("/.git", &[1]),
        ("/.gi", &[]),
        ("/a/.b/c", &[2]),
        ("/./x", &[3]),
        ("//x", &[]),
    ] {
        assert_eq!(reached(&index, 0, path), expected, "{path}");
    }
}

#[test]
fn finds_prefixes_and_exact_paths_byte_by_byte() {
    let index = index(&[
        (0, "/foo"),
        (0, "=/foo"),
        (0, "/foobar"),
        (0, "/fob"),
        (0, "/"),
        (0, ""),
        (0, "=/foo/é"),
        (0, "/foo"),
    ]);
    for (path, expected) in [
        ("", &[5][..]),
        ("/", &[4, 5]),
        ("/f", &[4, 5]),
        ("/foo", &[0, 1, 4, 5, 7]),
        ("/foob", &[0, 4, 5, 7]),
        ("/foobarbaz", &[0, 2, 4, 5, 7]),
        ("/fobx", &[3, 4, 5]),
        ("/foo/é", &[0, 4, 5, 6, 7]),
        ("/foo/éx", &[0, 4, 5, 7]),
        ("x", &[5]),
    ] {
        assert_eq!(reached(&index, 0, path), expected, "{path}");
    }
}

#[test]
fn roots_are_apart_and_may_be_empty() {
    let index = index(&[(1, "/a"), (3, "/a"), (3, "/b")]);
    for (root, path, expected) in
        [(0, "/a", &[][..]), (1, "/a", &[0]), (1, "/b", &[]), (2, "/a", &[]), (3, "/bc", &[2]), (9, "/a", &[])]
    {
        assert_eq!(reached(&index, root, path), expected, "{root} {path}");
    }
}

#[test]
fn wide_and_deep_nodes_are_found() {
    let wide: Vec<String> = (0..=255_u8).map(|byte| format!("/{byte:03}x")).collect();
    let deep: Vec<String> = (1..2000).map(|length| "a".repeat(length)).collect();
    for paths in [wide, deep] {
        let keys = paths.iter().enumerate();
        let index = build(1, keys.map(|(rank, path)| (0, path.as_str(), true, Candidate::new(rank as u32, false))));
        for (rank, path) in paths.iter().enumerate() {
            assert_eq!(reached(&index, 0, path), [rank as u32]);
        }
    }
}

#[test]
fn equal_entries_merge_and_the_decided_one_stays() {
    let index = build(1, [false, true, false].map(|decided| (0, "/a", false, Candidate::new(7, decided))).into_iter());
    assert_eq!(reached(&index, 0, "/a"), [7]);
    assert!(index.nodes[0].at.is_decided());
}

#[test]
fn a_node_is_half_a_line_of_cache() {
    assert_eq!(size_of::<Node>(), 32);
}

#[test]
fn more_candidates_than_a_node_can_count_are_all_found() {
    let count = 3 * u32::from(LARGE);
    let keys = (0..count).map(|rank| (0, "/a", rank % 3 == 0, Candidate::new(rank, false)));
    let index = build(1, keys);
    let of_kind = |wanted: &dyn Fn(u32) -> bool| (0..count).filter(|rank| wanted(*rank)).collect::<Vec<_>>();
    assert_eq!(reached(&index, 0, "/ab"), of_kind(&|rank| rank % 3 != 0));
    assert_eq!(reached(&index, 0, "/a"), of_kind(&|_| true));
}

#[test]
fn what_cannot_win_is_not_reported() {
    let paths = ["/s/abc", "/s/a", "/s/ab", "/s/abcd", "/s/x"];
    let index = |decided: bool| {
        let keys = (0..).zip(paths);
        build(1, keys.map(|(rank, path)| (0, path, false, Candidate::new(rank, decided))))
    };
    assert_eq!(reached(&index(true), 0, "/s/abc/x"), [0]);
    assert_eq!(reached(&index(true), 0, "/s/abx"), [1, 2]);
    assert_eq!(reached(&index(true), 0, "/s/abcde"), [0, 3]);
    assert_eq!(reached(&index(false), 0, "/s/abcde"), [0, 1, 2, 3]);
}

proptest! {
    /// What the index leaves out is weaker than something that matches for sure; what it names is there.
    #[test]
    fn it_agrees_with_a_scan(
        keys in prop::collection::vec(("[/ab.\\-0]{0,20}", any::<bool>(), any::<bool>()), 0..60),
        path in "[/ab.\\-0]{0,24}",
        length in 0..25_usize,
    ) {
        let keyed = (0..).zip(&keys).map(|(rank, (path, exact, decided))| (0, path.as_str(), *exact, Candidate::new(rank, *decided)));
        let index = build(1, keyed);
        let known = keys.get(length).map(|key| key.0.clone());
        for path in [path, known.unwrap_or_default()] {
            let mut found = reached(&index, 0, &path);
            let fits = |(_, (key, exact, _)): &(u32, &(String, bool, bool))| if *exact { path == *key } else { path.starts_with(key) };
            let scanned: Vec<(u32, bool)> =
                (0..).zip(&keys).filter(fits).map(|(rank, (_, _, decided))| (rank, *decided)).collect();
            let is_needed = |rank: u32| !scanned.iter().any(|(other, decided)| *decided && *other < rank && found.contains(other));
            for (rank, _) in &scanned {
                prop_assert!(found.contains(rank) || !is_needed(*rank), "{path}: {rank} is missing of {scanned:?}");
            }
            found.sort_unstable();
            found.dedup();
            prop_assert!(found.iter().all(|rank| scanned.iter().any(|(other, _)| other == rank)), "{path}: {found:?}");
        }
    }
}
