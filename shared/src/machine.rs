//! Which machine this is, for telling a moved or copied identity from the machine that was admitted.
//!
//! The id of the operating system is meant to stay private, so only a keyed hash of it leaves the machine.

use std::fs::File;
use std::io::Read as _;

const ID_FILE: &str = "/etc/machine-id";
const ID_BYTES_MAX: u64 = 256;
const CONTEXT: &str = "lote 2025 which machine a member was admitted on";

/// 32 hexadecimal digits; empty where the system has no id (as in many containers), which then says nothing.
pub fn hash() -> String {
    let mut id = String::new();
    let read = File::open(ID_FILE).and_then(|file| file.take(ID_BYTES_MAX).read_to_string(&mut id));
    if read.is_err() { String::new() } else { hash_of(&id) }
}

fn hash_of(id: &str) -> String {
    match id.trim() {
        "" | "uninitialized" => String::new(),
        id => blake3::Hash::from(blake3::derive_key(CONTEXT, id.as_bytes())).to_hex()[..32].to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_machine_one_hash_and_none_for_none() {
        assert_eq!(hash_of("0123abc\n"), hash_of("0123abc"));
        assert_ne!(hash_of("0123abc"), hash_of("0123abd"));
        assert_eq!(hash_of("0123abc").len(), 32);
        assert_eq!((hash_of("\n"), hash_of("uninitialized\n")), (String::new(), String::new()));
    }
}
