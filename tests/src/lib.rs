//! End-to-end tests. Those in Rust lie in `tests/` of this crate: a real coordinator in this process, over real
//! sockets. Those with the real client packages are Python, in `clients/`, and are run by `cargo xtask test clients`;
//! the benches in `bench/` by `cargo xtask bench`.
