//! `meridian wan` as a person uses it: a router in the background, programs on hosts, and the end of both.
//!
//! Where the machine cannot make namespaces, the tests say so and are skipped.
#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "a helper of a test may fail the test")]

use std::process::{Command, Output, Stdio};
use std::time::Duration;

const PROGRAM: &str = env!("CARGO_BIN_EXE_meridian");

/// A lab of this test's own, removed at the end whatever happens.
struct Lab(String);

impl Lab {
    fn named(name: &str) -> Self {
        Self(format!("cli-{name}-{}", std::process::id()))
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(PROGRAM);
        command.args(["wan", "--name", &self.0]).args(arguments);
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    fn succeed(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    fn fail(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
        String::from_utf8(output.stderr).unwrap()
    }

    fn json(&self, arguments: &[&str]) -> serde_json::Value {
        let text = self.succeed(&[arguments, &["--format", "json"]].concat());
        serde_json::from_str(&text).unwrap()
    }

    /// Makes it; `false` where there can be none.
    fn up(&self) -> bool {
        let output = self.run(&["up", "three"]);
        let said = String::from_utf8_lossy(&output.stderr);
        if said.contains("a WAN lab needs") {
            println!("skipped: {said}");
            return false;
        }
        assert!(output.status.success(), "{said}");
        true
    }

    fn namespaces(&self) -> usize {
        let Ok(entries) = std::fs::read_dir("/run/netns") else { return 0 };
        let prefix = format!("meridian-{}-", self.0);
        entries.flatten().filter(|e| e.file_name().to_string_lossy().starts_with(&prefix)).count()
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        // It says itself what is wrong; a panic here would hide the test's own.
        let _ = self.run(&["down"]);
    }
}

#[test]
fn a_lab_is_made_used_and_removed() {
    let lab = Lab::named("use");
    assert!(lab.fail(&["status"]).contains("meridian wan up TOPOLOGY"));
    if !lab.up() {
        return;
    }
    assert!(lab.fail(&["up", "lan"]).contains("is up already"));
    let status = lab.json(&["status"]);
    assert_eq!((&status["topology"], status["hosts"].as_array().unwrap().len()), (&"three".into(), 3));
    assert_eq!(status["hosts"][1]["address"], "10.77.2.1");

    // Programs run on their host, and end as they end.
    assert_eq!(lab.succeed(&["exec", "eu-west", "--", "sh", "-c", "echo $MERIDIAN_WAN_ADDRESS"]), "10.77.2.1\n");
    let addresses = lab.succeed(&["exec", "n3", "--", "ip", "-o", "-4", "addr"]);
    assert!(addresses.contains("10.77.3.1/16") && addresses.contains("127.0.0.1/8"), "{addresses}");
    assert_eq!(lab.run(&["exec", "n1", "--", "sh", "-c", "exit 7"]).status.code(), Some(7));
    assert!(lab.fail(&["exec", "mars", "--", "true"]).contains("n2 (eu-west/a)"));
    assert!(lab.fail(&["exec", "n1", "--", "no-such-program"]).contains("no-such-program"));

    assert_eq!(
        lab.json(&["isolate", "eu-west"])["ways"].as_array().unwrap().iter().filter(|w| w["blocked"] == true).count(),
        4
    );
    assert!(lab.succeed(&["heal"]).contains("open"));
    let delayed = lab.json(&["delay", "us-east", "eu-west", "150ms"]);
    assert!(delayed["ways"].as_array().unwrap().iter().any(|way| way["delay_us"] == 75_000));
    assert!(lab.fail(&["partition", "us-east", "mars"]).contains("there is no place `mars`"));

    // A cluster can be written for its hosts, if it is of the same topology.
    let dir = tempfile::tempdir().unwrap();
    let bootstrap = |topology: &str| {
        let mut command = Command::new(PROGRAM);
        command.args(["bootstrap", topology, "--only-write", "--lab", &lab.0, "--dir"]).arg(dir.path());
        command.output().unwrap()
    };
    assert!(!bootstrap("five").status.success());
    let written = bootstrap("three");
    let commands = String::from_utf8_lossy(&written.stdout);
    assert!(commands.contains(&format!("meridian wan exec --name {} n2 -- meridian start", lab.0)), "{commands}");
    assert!(std::fs::read_to_string(dir.path().join("node3/node.toml")).unwrap().contains("10.77.3.1:26600"));

    assert!(lab.succeed(&["down"]).contains("is removed"));
    assert_eq!(lab.namespaces(), 0);
    assert_eq!(lab.json(&["down"])["was"], "absent");
}

#[test]
fn what_a_killed_router_leaves_is_removed() {
    let lab = Lab::named("kill");
    if !lab.up() {
        return;
    }
    // Its own number, from its own mouth.
    let router = lab.json(&["status"])["router"].to_string();
    assert!(Command::new("kill").args(["-9", &router]).status().unwrap().success());
    while !lab.fail(&["status"]).contains("has no router any more") {
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(lab.fail(&["exec", "n1", "--", "true"]).contains("meridian wan down"));
    assert!(lab.fail(&["up", "three"]).contains("meridian wan down"));
    assert_eq!(lab.namespaces(), 3);
    assert_eq!(lab.json(&["down"])["was"], "left_over");
    assert_eq!(lab.namespaces(), 0);
}

#[test]
fn a_router_in_the_foreground_cleans_up_when_it_is_asked_to_end() {
    let lab = Lab::named("front");
    let mut router =
        lab.command(&["up", "three", "--foreground"]).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    while !lab.run(&["status"]).status.success() {
        if let Some(status) = router.try_wait().unwrap() {
            let mut said = String::new();
            std::io::Read::read_to_string(router.stderr.as_mut().unwrap(), &mut said).unwrap();
            assert!(said.contains("a WAN lab needs"), "{status}: {said}");
            println!("skipped: {said}");
            return;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(lab.namespaces(), 3);
    assert!(Command::new("kill").args(["-TERM", &router.id().to_string()]).status().unwrap().success());
    assert!(router.wait().unwrap().success());
    assert_eq!(lab.namespaces(), 0);
    assert_eq!(lab.json(&["down"])["was"], "absent");
}

#[test]
fn a_mistake_in_the_topology_is_told_at_once() {
    let lab = Lab::named("bad");
    assert!(lab.fail(&["up", "four"]).contains("presets are three, five and lan"));
    assert_eq!(lab.namespaces(), 0);
}
