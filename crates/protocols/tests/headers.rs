//! Headers are contracts (DESIGN.md, rule 9): that of every protocol has the same five lines, and
//! says where the protocol comes from.
//!
//! A protocol is every file of the phases and of the paper's protocols but those listed here.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Where protocols lie, below `crates`: folders, and a file in a room that holds other things.
const PLACES: [&str; 5] = [
    "protocols/src/offline",
    "protocols/src/online",
    "protocols/src/endpoint/prefix.rs",
    "protocols/src/endpoint/crop.rs",
    "encrypted/src",
];

/// The lines of a header, in this order. `Inputs` by holder, shape and scale.
const LINES: [&str; 5] = ["Functionality", "Inputs", "Cost", "Material", "Leaks"];

/// Where a protocol may come from: a section of the design, or the paper.
const DESIGN: &str = "docs/protocols/preprocessed.md";
const PAPER: &str = "arXiv 2602.08798";

/// Files that hold no protocol, with the reason.
const OTHERS: [(&str, &str); 25] = [
    ("protocols/src/offline/mod.rs", "lists the protocols of the phase"),
    ("protocols/src/offline/attention/packing.rs", "where numbers lie in ciphertexts"),
    ("protocols/src/offline/pipeline.rs", "threads"),
    ("protocols/src/offline/prepare/tables.rs", "a part of offline/prepare.rs"),
    ("protocols/src/online/mod.rs", "the state of a session"),
    ("protocols/src/online/attention/client.rs", "a side of online/attention.rs"),
    ("protocols/src/online/attention/server.rs", "a side of online/attention.rs"),
    ("protocols/src/online/attention/exponentials.rs", "steps 1 to 3 of online/attention.rs"),
    ("protocols/src/online/events.rs", "sums of a party's own shares, which online/logits.rs sends"),
    ("protocols/src/online/products.rs", "what a party asks of a protocol"),
    ("protocols/src/online/preprocessed.rs", "its part of online/linear.rs and online/attention.rs"),
    ("protocols/src/online/turn.rs", "the order of a pass"),
    ("encrypted/src/lib.rs", "the state of a session"),
    ("encrypted/src/handle.rs", "what steps and sessions ask of that state"),
    ("encrypted/src/attention/client.rs", "a side of attention.rs"),
    ("encrypted/src/attention/server.rs", "a side of attention.rs"),
    ("encrypted/src/attention/cost.rs", "counts and prices"),
    ("encrypted/src/attention/products.rs", "the server's products of ciphertexts"),
    ("encrypted/src/attention/schedule.rs", "the order of products"),
    ("encrypted/src/attention/shares.rs", "where shares lie in slots"),
    ("encrypted/src/cache.rs", "the server's object and its public numbers"),
    ("encrypted/src/diagonals.rs", "where numbers lie in slots"),
    ("encrypted/src/layout.rs", "where numbers lie in slots"),
    ("encrypted/src/pass.rs", "counts"),
    ("encrypted/src/planner.rs", "counts and prices"),
];
/// The same, of whole folders.
const OTHER_FOLDERS: [(&str, &str); 3] = [
    ("encrypted/src/cache/", "the cache as a file"),
    ("encrypted/src/encoded", "the server's weights, encoded"),
    ("encrypted/src/tests", "tests"),
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn walk(path: PathBuf, files: &mut Vec<PathBuf>) {
    match path.is_dir() {
        true => fs::read_dir(path).unwrap().for_each(|entry| walk(entry.unwrap().path(), files)),
        false => files.extend(path.exists().then_some(path)),
    }
}

/// The files of all places, by their path below `crates`.
fn files() -> BTreeSet<String> {
    let mut files = vec![];
    PLACES.iter().for_each(|place| walk(root().join(place), &mut files));
    files.iter().map(|path| path.strip_prefix(root()).unwrap().to_str().unwrap().to_owned()).collect()
}

fn is_other(file: &str) -> bool {
    OTHERS.iter().any(|(name, _)| *name == file)
        || OTHER_FOLDERS.iter().any(|(name, _)| file.starts_with(name))
}

/// The comment at the head of a file, line by line.
fn header(file: &str) -> Vec<String> {
    let text = fs::read_to_string(root().join(file)).unwrap();
    let lines = text.lines().map_while(|line| line.strip_prefix("//!"));
    lines.map(|line| line.trim_start().to_owned()).collect()
}

/// The labels of the five lines that a header has, in its order.
fn labels(header: &[String]) -> Vec<&str> {
    let label = |line: &String| LINES.into_iter().find(|label| line.starts_with(&format!("{label}: ")));
    header.iter().filter_map(label).collect()
}

/// The sections of the design that a header names, such as `4.2`.
fn sections(header: &[String]) -> Vec<String> {
    let text = header.join(" ");
    let behind = text.split('§').skip(1);
    let number =
        |rest: &str| rest.chars().take_while(|c| c.is_ascii_digit() || *c == '.').collect::<String>();
    behind.map(|rest| number(rest).trim_end_matches('.').to_owned()).collect()
}

/// The numbers of the design's headings.
fn headings() -> BTreeSet<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(DESIGN);
    let text = fs::read_to_string(path).unwrap();
    let titles = text.lines().filter(|line| line.starts_with('#'));
    let numbers = titles.filter_map(|line| line.trim_start_matches('#').split_whitespace().next());
    numbers.map(|number| number.trim_end_matches('.').to_owned()).collect()
}

#[test]
fn every_protocol_has_the_five_lines() {
    let protocols: Vec<String> = files().into_iter().filter(|file| !is_other(file)).collect();
    assert!(protocols.len() > 15, "{protocols:?}");
    let wrong = protocols.iter().filter(|file| labels(&header(file)) != LINES);
    let wrong: Vec<_> = wrong.map(|file| format!("{file}: {:?}", labels(&header(file)))).collect();
    assert!(wrong.is_empty(), "expected {LINES:?}, found {wrong:#?}");
}

#[test]
fn every_protocol_names_a_section_that_exists_or_the_paper() {
    let headings = headings();
    for file in files().into_iter().filter(|file| !is_other(file)) {
        let (header, text) = (header(&file), header(&file).join(" "));
        assert!(text.contains(DESIGN) || text.contains(PAPER), "{file} names no source");
        let sections = sections(&header);
        assert_eq!(text.contains(DESIGN), !sections.is_empty(), "{file}: which section of {DESIGN}?");
        for section in sections {
            assert!(headings.contains(&section), "{file}: {DESIGN} has no section {section}");
        }
    }
}

#[test]
fn the_list_of_other_files_is_true() {
    let files = files();
    for (file, why) in OTHERS {
        assert!(files.contains(file), "{file} ({why}) does not exist");
        assert!(labels(&header(file)).is_empty(), "{file} ({why}) has lines of a protocol");
    }
    for (folder, why) in OTHER_FOLDERS {
        assert!(files.iter().any(|file| file.starts_with(folder)), "{folder} ({why}) does not exist");
    }
}
