//! One node in a process of its own, for tests that kill it: `test-node start --config FILE`, as `meridian start`
//! would run it. A program of this package, so that Cargo builds it for these tests.

use std::error::Error;
use std::path::PathBuf;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let path = std::env::args_os().nth(3).map(PathBuf::from).ok_or("usage: test-node start --config FILE")?;
    meridian_tests::node::run(&path).await
}
