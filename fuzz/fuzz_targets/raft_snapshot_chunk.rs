#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| meridian_fuzz::run("raft_snapshot_chunk", data));
