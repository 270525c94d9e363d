//! The walls between the rooms of this crate (DESIGN.md): no path runs against their arrows.
//!
//! A scan of the source text: every path from the crate's root, in `use` lines and in code alike.
//! Comments may name anything, and so may the tests under `src/tests` and what they share
//! (`src/testing`), which no room may name.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Every room, with those that it stands on.
const ROOMS: [(&str, &[&str]); 7] = [
    ("error", &[]),
    ("model", &[]),
    ("share", &["model"]),
    ("material", &["share", "model"]),
    ("offline", &["material", "share", "model"]),
    ("online", &["material", "share", "model"]),
    ("endpoint", &["online", "offline", "material", "share", "model"]),
];

/// The ground, on which all rooms stand.
const GROUND: [&str; 3] = ["error", "Result", "ProtocolError"];

/// All files of the crate but its tests and its root, by their path below `src`.
fn sources() -> Vec<(String, String)> {
    fn walk(folder: &Path, files: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => walk(&path, files),
                false => files.push(path),
            }
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = vec![];
    walk(&root, &mut files);
    let named = files.iter().map(|path| {
        let name = path.strip_prefix(&root).unwrap().to_str().unwrap().to_owned();
        (name, fs::read_to_string(path).unwrap())
    });
    named.filter(|(name, _)| name != "lib.rs" && !["tests", "testing"].contains(&room(name))).collect()
}

/// The room of a file.
fn room(file: &str) -> &str {
    file.split('/').next().and_then(|first| first.split('.').next()).unwrap_or_default()
}

/// Modules between a file and the crate's root.
fn depth(file: &str) -> usize {
    file.split('/').filter(|part| *part != "mod.rs").count()
}

/// The first names of all paths from the crate's root: behind `crate::`, and behind as many
/// `super::` as lead there.
fn named(file: &str, text: &str) -> BTreeSet<String> {
    let code: String =
        text.lines().flat_map(|line| [line.split("//").next().unwrap_or_default(), "\n"]).collect();
    let mut names = BTreeSet::new();
    for (at, _) in code.match_indices("crate::") {
        if !code[..at].ends_with(is_name) {
            names.extend(heads(&code[at + "crate::".len()..]));
        }
    }
    let up = "super::".repeat(depth(file));
    for (at, _) in code.match_indices(&up) {
        if !code[..at].ends_with(is_name) && !code[..at].ends_with("::") {
            let is_room = |name: &String| ROOMS.iter().any(|(room, _)| room == name);
            names.extend(heads(&code[at + up.len()..]).into_iter().filter(is_room));
        }
    }
    names
}

/// The first name of a path, or those of all paths in braces.
fn heads(path: &str) -> Vec<String> {
    let name = |path: &str| path.trim_start().chars().take_while(|c| is_name(*c)).collect::<String>();
    let Some(group) = path.strip_prefix('{') else { return vec![name(path)] };
    let (mut open, mut names) = (0, vec![name(group)]);
    for (at, c) in group.char_indices() {
        match c {
            '{' => open += 1,
            '}' if open == 0 => break,
            '}' => open -= 1,
            ',' if open == 0 => names.push(name(&group[at + 1..])),
            _ => {}
        }
    }
    names.retain(|name| !name.is_empty());
    names
}

fn is_name(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

#[test]
fn no_arrow_runs_backwards() {
    let mut wrong = vec![];
    for (file, text) in sources() {
        let room = room(&file);
        let Some((_, below)) = ROOMS.iter().find(|(name, _)| *name == room) else {
            wrong.push(format!("{file} lies in no room"));
            continue;
        };
        for name in named(&file, &text) {
            let name = name.as_str();
            if name != room && !below.contains(&name) && !GROUND.contains(&name) {
                wrong.push(format!("{file} names crate::{name}, on which {room} does not stand"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// The paper's two protocols stand on this crate, and it does not know that they are there.
#[test]
fn nobody_asks_for_the_protocols_on_ciphertexts() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |name: &str| (name.to_owned(), fs::read_to_string(folder.join(name)).unwrap());
    let files = sources().into_iter().chain(["Cargo.toml", "src/lib.rs"].map(read));
    // By name, or by the arithmetic that only they use.
    for (file, text) in files {
        for name in
            ["cryptogen_encrypted", "cryptogen-encrypted", "encrypted-cache", "recompute", "he::evaluate"]
        {
            assert!(!text.contains(name), "{file} names {name}");
        }
    }
}

#[test]
fn the_model_knows_no_party() {
    for (file, text) in sources().iter().filter(|(file, _)| room(file) == "model") {
        for other in ["cryptogen_party", "cryptogen_ot", "cryptogen_he", "cryptogen_mpc"] {
            assert!(!text.contains(other), "{file} names {other}");
        }
    }
}

#[test]
fn the_scan_finds_every_way_to_write_a_path() {
    let names = |file: &str, text: &str| named(file, text).into_iter().collect::<Vec<_>>().join(" ");
    assert_eq!(names("online/mod.rs", "use crate::offline::keys::PartyKeys;"), "offline");
    assert_eq!(
        names("online/mod.rs", "fn f(x: &crate::offline::Keys) -> crate::Result<()>"),
        "Result offline"
    );
    assert_eq!(
        names("online/mod.rs", "use crate::{\n    error::Result,\n    material::{a, b},\n};"),
        "error material"
    );
    assert_eq!(names("online/mod.rs", "use super::offline::keys;"), "offline");
    assert_eq!(names("online/embed.rs", "use super::super::{material, offline as o};"), "material offline");
    let commented = "use super::offline; // crate::offline\n/// [`crate::offline`]";
    assert_eq!(names("online/embed.rs", commented), "");
    assert_eq!(names("online/embed.rs", "pub(in crate::online) fn f() { mycrate::offline() }"), "online");
}
