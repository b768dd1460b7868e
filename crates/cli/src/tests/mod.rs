//! Whole commands, from the command line to the exit code, against a gateway in memory.

mod backup;
mod debug;
mod documents;
mod gateway;

use crate::args::Cli;
use crate::{commands, exit};
use clap::Parser as _;
use gateway::MemoryGateway;
use meridian_types::{CausalityToken, Consistency, Timestamp, Within};
use std::path::Path;
use std::time::Duration;

/// Runs a command line; returns its exit code and message.
async fn meridian(gateway: &MemoryGateway, line: &str) -> (u8, String) {
    let words = ["meridian", "--gateway", &gateway.address].into_iter().chain(line.split_whitespace());
    match commands::run(Cli::try_parse_from(words).unwrap()).await {
        Ok(()) => (0, String::new()),
        Err(error) => (exit::code(&error), exit::message(&error)),
    }
}

async fn succeed(gateway: &MemoryGateway, line: &str) {
    assert_eq!(meridian(gateway, line).await, (0, String::new()), "{line}");
}

async fn with_table(name: &str) -> MemoryGateway {
    let gateway = MemoryGateway::start().await;
    succeed(&gateway, &format!("table create {name} --placement regional:us")).await;
    gateway
}

#[tokio::test]
async fn keys_are_written_read_and_deleted() {
    let gateway = with_table("t").await;
    succeed(&gateway, "kv put t k v --receipt").await;
    succeed(&gateway, "kv get t k --format json").await;
    succeed(&gateway, "kv put t 6b 7632 --hex").await;
    assert_eq!(gateway.value("t", "k").as_deref(), Some("v2"));
    succeed(&gateway, "kv delete t k").await;
    assert_eq!(meridian(&gateway, "kv get t k").await, (exit::CONDITION, "the key has no value".into()));
    let (code, message) = meridian(&gateway, "kv get absent k").await;
    assert_eq!(code, exit::ERROR);
    assert!(message.contains("UNKNOWN_TABLE"), "{message}");
}

#[tokio::test]
async fn a_failed_precondition_and_a_lost_answer_have_exit_codes_of_their_own() {
    let gateway = with_table("t").await;
    succeed(&gateway, "kv txn t --if-absent lock --put lock=me --put other=x").await;
    let (code, message) = meridian(&gateway, "kv txn t --if-absent lock --put lock=you").await;
    assert_eq!(code, exit::CONDITION, "{message}");
    assert_eq!(gateway.value("t", "lock").as_deref(), Some("me"));
    succeed(&gateway, "kv txn t --if-value lock=me --delete lock --read lock").await;
    gateway.lose_answers("k");
    let (code, message) = meridian(&gateway, "kv put t k v --timeout 200ms").await;
    assert_eq!(code, exit::UNKNOWN, "{message}");
    assert!(message.contains("outcome unknown"), "{message}");
}

#[tokio::test]
async fn the_token_file_carries_a_session_from_one_command_to_the_next() {
    let gateway = with_table("t").await;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("token").display().to_string();
    succeed(&gateway, &format!("kv put t k v --token-file {file}")).await;
    let token = CausalityToken(Timestamp(1));
    assert_eq!(std::fs::read_to_string(&file).unwrap(), format!("{}\n", crate::text::hex(&token.to_bytes())));
    succeed(&gateway, &format!("kv get t k --consistency causal --token-file {file}")).await;
    assert_eq!(gateway.last_read(), meridian_wire::consistency::encode(&Consistency::Causal(token)));
    let (code, message) = meridian(&gateway, "kv get t k --consistency causal").await;
    assert_eq!(code, exit::ERROR);
    assert!(message.contains("--token-file"), "{message}");
    std::fs::write(&file, "nonsense").unwrap();
    assert_eq!(meridian(&gateway, &format!("kv put t k v --token-file {file}")).await.0, exit::ERROR);
}

#[tokio::test]
async fn a_budget_carries_the_weakest_level_and_what_the_session_has_seen() {
    let gateway = with_table("t").await;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("token").display().to_string();
    succeed(&gateway, &format!("kv put t k v --token-file {file}")).await;
    succeed(&gateway, "kv get t k").await;
    assert_eq!(gateway.last_budget(), None);
    let bounded = Consistency::BoundedStaleness(Duration::from_secs(5));
    let within = Within::new(Duration::from_millis(40)).or_weaker(bounded);
    succeed(&gateway, "kv get t k --within 40ms --weakest bounded:5s --format json").await;
    assert_eq!(gateway.last_budget(), Some(meridian_wire::within::encode(&within)));
    succeed(&gateway, &format!("kv scan t --within 40ms --weakest bounded:5s --token-file {file}")).await;
    let within = within.including(CausalityToken(Timestamp(1)));
    assert_eq!(gateway.last_budget(), Some(meridian_wire::within::encode(&within)));
    assert_eq!(gateway.last_read(), meridian_wire::consistency::encode(&Consistency::Linearizable));
}

/// Imports `text` from a file of this name.
async fn import(gateway: &MemoryGateway, name: &str, text: &str, options: &str) -> (u8, String) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(name);
    std::fs::write(&path, text).unwrap();
    meridian(gateway, &format!("import {} --table t {options}", path.display())).await
}

#[tokio::test]
async fn what_was_imported_can_be_exported_again() {
    let gateway = MemoryGateway::start().await;
    let records: Vec<_> = (0..7).map(|n| format!(r#"{{"name":"n{n}","code":"c{n}"}}"#)).collect();
    let document = format!(r#"{{"3166-1":[{}]}}"#, records.join(","));
    assert_eq!(import(&gateway, "iso.json", &document, "--key code --create --concurrency 3").await.0, 0);
    assert_eq!(gateway.value("t", "c4"), Some(records[4].clone()));

    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("again.jsonl").display().to_string();
    succeed(&gateway, &format!("export --table t --values --output {path}")).await;
    let exported = std::fs::read_to_string(&path).unwrap();
    assert_eq!(exported.lines().map(str::to_owned).collect::<Vec<_>>(), records, "all pages, in the order of keys");
    succeed(&gateway, &format!("import {path} --table t --key code")).await;
    assert_eq!(gateway.rows("t"), 7);
    assert_eq!(meridian(&gateway, &format!("export --table absent --output {path}.2")).await.0, exit::ERROR);
    assert_eq!(std::fs::read_dir(Path::new(&path).parent().unwrap()).unwrap().count(), 1);
}

#[tokio::test]
async fn bad_records_do_not_keep_good_ones_out() {
    let gateway = with_table("t").await;
    let csv = "id,name\na,1\nb\n,3\na,4\nc,5\n";
    let (code, message) = import(&gateway, "f.csv", csv, "--key id").await;
    assert_eq!((code, message.as_str()), (exit::ERROR, "3 records not imported"));
    assert_eq!(gateway.rows("t"), 2);
    assert_eq!(gateway.value("t", "a").as_deref(), Some(r#"{"id":"a","name":"1"}"#), "the first of two wins");
}

#[tokio::test]
async fn an_import_stops_when_the_cluster_does_not_answer() {
    let gateway = with_table("t").await;
    gateway.lose_answers("a");
    let lines = "{\"id\":\"a\"}\n{\"id\":\"b\"}\n";
    let (code, message) = import(&gateway, "f.jsonl", lines, "--key id --concurrency 1 --timeout 200ms").await;
    assert_eq!(code, exit::UNKNOWN, "{message}");
    assert_eq!(gateway.value("t", "b"), None, "the rest is not attempted");
}

#[tokio::test]
async fn an_import_without_a_table_says_how_to_make_one() {
    let gateway = MemoryGateway::start().await;
    let (code, message) = import(&gateway, "f.jsonl", "", "--key id").await;
    assert_eq!(code, exit::ERROR);
    assert!(message.contains("--create"), "{message}");
}

#[tokio::test]
async fn tables_status_scans_and_transfers_print_in_both_forms() {
    let gateway = with_table("t").await;
    succeed(&gateway, "kv put t k v").await;
    for command in ["table list", "table describe t", "status", "kv scan t --prefix k --reverse", "transfer s4 n1"] {
        for format in ["human", "json"] {
            succeed(&gateway, &format!("{command} --format {format}")).await;
        }
    }
    succeed(&gateway, "table drop t").await;
    assert_eq!(meridian(&gateway, "table describe t").await.0, exit::ERROR);
}
