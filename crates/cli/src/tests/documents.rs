//! The documents say what the program does: their commands parse, their examples are valid, their tables are whole.

use crate::args::Cli;
use clap::Parser as _;
use meridian_client::{Fate, Reason};
use meridian_server::config::NodeConfig;
use meridian_wan::Topology;

const README: &str = include_str!("../../../../README.md");
const API: &str = include_str!("../../../../docs/api.md");
const CONFIGURATION: &str = include_str!("../../../../docs/configuration.md");

/// The text up to the first of these, if it has one.
fn before<'a>(text: &'a str, ends: &[&str]) -> &'a str {
    let end = ends.iter().filter_map(|end| text.find(end)).min();
    text[..end.unwrap_or(text.len())].trim_end()
}

/// The fenced TOML examples.
fn toml_blocks(document: &str) -> Vec<&str> {
    document.split("```toml\n").skip(1).map(|rest| before(rest, &["```"])).collect()
}

#[test]
fn every_command_of_the_readme_parses() {
    let commands = README.lines().filter_map(|line| line.strip_prefix("$ ")).filter(|c| c.starts_with("meridian "));
    let commands: Vec<_> = commands.map(|c| before(c, &[" #", " >"])).collect();
    assert!(commands.len() > 15, "{commands:?}");
    for command in commands {
        Cli::try_parse_from(command.split_whitespace()).unwrap_or_else(|e| panic!("{command}: {e}"));
    }
}

#[test]
fn the_examples_of_the_configuration_are_valid() {
    let [node, topology] = toml_blocks(CONFIGURATION)[..] else { panic!("a node and a topology") };
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("node.toml");
    std::fs::write(&path, node).unwrap();
    assert!(NodeConfig::load(&path).unwrap().validate().is_empty());
    Topology::parse_toml(topology).unwrap();
}

#[test]
fn the_table_of_errors_has_every_reason_with_its_code_and_outcome() {
    for reason in Reason::ALL {
        let row = API.lines().find(|line| line.starts_with(&format!("| `{}` |", reason.name())));
        let row = row.unwrap_or_else(|| panic!("{} is missing", reason.name()));
        let code = format!("{:?}", meridian_wire::status::code(reason));
        let documented = row.split('|').nth(2).unwrap().replace(['`', '_', ' '], "");
        assert!(documented.eq_ignore_ascii_case(&code), "{row}: the code is {code}");
        let outcome = match reason.fate() {
            Fate::NotApplied => " not applied ",
            Fate::Unknown => " unknown ",
        };
        assert_eq!(row.split('|').nth(3), Some(outcome), "{row}");
    }
}
