//! Criterion benchmarks of single crates, in `benches/`. Whole clusters are measured by `meridian bench`.
