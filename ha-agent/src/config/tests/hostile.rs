//! Files that are broken, hostile, or no configuration at all.

use proptest::prelude::*;

use super::*;

#[test]
fn a_syntax_error_hides_nothing_else() {
    let text = with("ha_checks: true, gateway", "ha_checks: true gateway")
        .replace("    port: 80\n", "    port: eighty\n    prot: tcp\n");
    let all = said(&text);
    assert_eq!(all.len(), 3, "{all:?}");
    assert!(all[0].starts_with("6:"), "{all:?}");
    assert!(all[1].starts_with("15:11"), "{all:?}");
    assert!(all[2].starts_with("16:5"), "{all:?}");
}

#[test]
fn not_text_at_all() {
    for (bytes, what) in [
        (&b""[..], "empty"),
        (b"# nothing\n", "empty"),
        (b"\xff\xfe", "UTF-8"),
        (b"just words", "must be a map"),
        (b"- a\n- b\n", "must be a map"),
    ] {
        let problems = Config::parse(Path::new("f"), bytes.to_vec()).unwrap_err();
        assert!(problems[0].what.contains(what), "{problems:?}");
    }
}

#[test]
fn unreadable_files() {
    let dir = tempfile::tempdir().unwrap();
    for path in [dir.path().join("absent"), dir.path().to_owned()] {
        let problems = Config::load(&path).unwrap_err();
        assert_eq!(problems.len(), 1);
        assert_eq!(problems[0].line, 0);
    }
    let huge = dir.path().join("huge");
    File::create(&huge).unwrap().set_len(SIZE_MAX + 1).unwrap();
    assert!(Config::load(&huge).unwrap_err()[0].what.contains("larger"));
}

#[test]
fn secrets() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::tempdir().unwrap();
    let key = dir.path().join("pair.key");
    let pass = dir.path().join("carp");
    let text = with(
        "  mode: first",
        &format!(
            "  mode: first\n  key_file: {}\n  carp_passphrase_file: {}",
            key.display(),
            pass.display()
        ),
    );
    let loaded = parse(&text).unwrap();
    let problems = loaded.secrets().unwrap_err();
    assert_eq!(problems.len(), 2, "{problems:?}");
    assert_eq!((problems[0].line, problems[1].line), (5, 6));
    PairKeys::generate(&key).unwrap();
    for (content, good) in [
        ("secret\n", true),
        ("1234567890123456789\r\n", true),
        ("12345678901234567890", false),
        ("", false),
        ("two\nlines", false),
    ] {
        std::fs::write(&pass, content).unwrap();
        std::fs::set_permissions(&pass, std::fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(loaded.secrets().is_ok(), good, "{content:?}");
    }
    std::fs::write(&pass, "secret\n").unwrap();
    assert_eq!(*loaded.secrets().unwrap().carp_passphrase, b"secret");
    std::fs::set_permissions(&pass, std::fs::Permissions::from_mode(0o644)).unwrap();
    assert!(loaded.secrets().is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        if let Err(problems) = Config::parse(Path::new("f"), bytes) {
            for problem in problems {
                prop_assert!(!problem.to_string().is_empty());
            }
        }
    }

    #[test]
    fn arbitrary_yaml_never_panics(text in "[a-z0-9:\\-\\[\\]{}&*,#|>'\"!%@~ \n\t\u{e9}]{0,300}") {
        for problem in parse(&text).err().into_iter().flatten() {
            prop_assert!(!problem.to_string().is_empty());
        }
    }

    /// Every mutation of a good file is either good or told apart by located errors.
    #[test]
    fn mutations_never_panic(
        cuts in proptest::collection::vec((any::<prop::sample::Index>(), 0usize..20, "[a-z0-9:\\-\\[\\]{},*&# \n\t]{0,6}"), 1..6)
    ) {
        let mut text: Vec<char> = GOOD.chars().collect();
        for (at, remove, insert) in cuts {
            let at = at.index(text.len() + 1);
            let end = (at + remove).min(text.len());
            text.splice(at..end, insert.chars());
        }
        let text: String = text.into_iter().collect();
        match parse(&text) {
            Ok(loaded) => {
                prop_assert!(diff(&loaded.config, &loaded).is_ok());
            }
            Err(problems) => {
                prop_assert!(problems.iter().any(|p| p.severity == Severity::Error));
                for problem in &problems {
                    prop_assert!(problem.line > 0 && problem.column > 0);
                    prop_assert!(problem.to_string().lines().count() == 1, "{problem}");
                    prop_assert!(format!("{problem:#}").lines().count() == 4, "{problem:#}");
                }
            }
        }
    }
}
