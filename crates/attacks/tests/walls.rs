//! What lets a party deviate is in no release, and SECURITY names tests that exist.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

fn root() -> PathBuf {
    fs::canonicalize(Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")).unwrap()
}

/// The crates that the Python package is built of, with their features.
fn packages(features: &str) -> Vec<(String, Vec<String>)> {
    let tree = Command::new(env!("CARGO"))
        .current_dir(root())
        .args(["tree", "--offline", "--package", "cryptogen-python", "--features", features])
        .args(["--edges", "normal,build", "--prefix", "none", "--format", "{p}|{f}"])
        .output()
        .expect("cargo runs");
    assert!(tree.status.success(), "{}", String::from_utf8_lossy(&tree.stderr));
    let text = String::from_utf8(tree.stdout).unwrap();
    let package = |line: &str| {
        let (name, features) = line.split_once('|').unwrap();
        let features = features.split([',', ' ']).map(str::to_owned);
        (name.split(' ').next().unwrap().to_owned(), features.collect())
    };
    text.lines().map(package).collect()
}

/// Features of ours that weaken anything.
fn weakening(packages: &[(String, Vec<String>)]) -> Vec<String> {
    let weakens = |f: &&String| f.starts_with("insecure-") || f.starts_with("test-");
    let ours = packages.iter().filter(|(name, _)| name.starts_with("cryptogen-"));
    ours.flat_map(|(name, all)| all.iter().filter(weakens).map(move |f| format!("{name}/{f}"))).collect()
}

#[test]
fn no_release_has_a_party_that_deviates() {
    let release = packages("pyo3/extension-module");
    assert!(release.iter().any(|(name, _)| name == "cryptogen-mpc"));
    assert!(release.iter().all(|(name, _)| name != "cryptogen-attacks"));
    assert_eq!(weakening(&release), Vec::<String>::new());
    // The core of the tests has its log of truncations, and that is seen.
    let mut of_tests = weakening(&packages("pyo3/extension-module,insecure-trace"));
    of_tests.dedup();
    assert_eq!(of_tests.len(), 2, "{of_tests:?}");
    assert!(of_tests.iter().all(|f| f.ends_with("/insecure-trace")), "{of_tests:?}");
}

/// Files of a folder.
fn files(folder: &Path, out: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => files(&path, out),
            false => out.push(path),
        }
    }
}

/// The one way to deviate over a connection lies behind the feature of tests.
#[test]
fn the_hook_is_for_tests_alone() {
    let session = root().join("crates/mpc/src/session");
    let read = |path: &Path| fs::read_to_string(path).unwrap_or_default();
    let gate = "#[cfg(any(test, feature = \"test-transport\"))]\nmod memory;\n";
    assert!(read(&session.join("mod.rs")).contains(gate));
    let mut sources = vec![];
    files(&root().join("crates"), &mut sources);
    let names = |path: &PathBuf| {
        let ours = path.components().any(|part| part.as_os_str() == "attacks");
        !ours && read(path).contains("insecure_deviate")
    };
    let named: Vec<PathBuf> = sources.into_iter().filter(names).collect();
    assert_eq!(named, [session.join("memory.rs")]);
}

/// Every test that SECURITY names, as a link from its name to its file.
#[test]
fn the_tests_that_security_names_exist() {
    let security = fs::read_to_string(root().join("SECURITY.md")).unwrap();
    let mut found = 0;
    for (name, link) in security.split("[`").skip(1).filter_map(|rest| rest.split_once("`](")) {
        let Some((file, _)) = link.split_once(')').filter(|(file, _)| file.ends_with(".rs")) else {
            continue;
        };
        let text = fs::read_to_string(root().join(file)).unwrap_or_default();
        assert!(text.contains(&format!("fn {name}()")), "{file} has no test {name}");
        found += 1;
    }
    assert!(found > 15, "{found}");
}
