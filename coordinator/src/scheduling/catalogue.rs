//! The size catalogue: what a node of a vmSize takes from its host (`pools-and-nodes.md` §1).
//!
//! Any name is a size. Names are compared without case; what is not listed takes the entry `*`. Programs written for
//! the cloud carry cloud names, so the common ones are here with the cores and memory the cloud gives them.

use std::collections::BTreeMap;

/// What a node takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    pub cores: u32,
    pub memory_mib: u64,
}

const ANY: &str = "*";
const DEFAULT: Size = Size { cores: 1, memory_mib: 1_024 };

/// Name, cores, memory in MiB.
const COMMON: [(&str, u32, u64); 30] = [
    ("standard_a1_v2", 1, 2_048),
    ("standard_a2_v2", 2, 4_096),
    ("standard_a4_v2", 4, 8_192),
    ("standard_a8_v2", 8, 16_384),
    ("standard_d1_v2", 1, 3_584),
    ("standard_d2_v2", 2, 7_168),
    ("standard_d3_v2", 4, 14_336),
    ("standard_d4_v2", 8, 28_672),
    ("standard_d2_v3", 2, 8_192),
    ("standard_d4_v3", 4, 16_384),
    ("standard_d8_v3", 8, 32_768),
    ("standard_d2s_v3", 2, 8_192),
    ("standard_d4s_v3", 4, 16_384),
    ("standard_d8s_v3", 8, 32_768),
    ("standard_d16s_v3", 16, 65_536),
    ("standard_d32s_v3", 32, 131_072),
    ("standard_d2s_v5", 2, 8_192),
    ("standard_d4s_v5", 4, 16_384),
    ("standard_d8s_v5", 8, 32_768),
    ("standard_ds1_v2", 1, 3_584),
    ("standard_ds2_v2", 2, 7_168),
    ("standard_ds3_v2", 4, 14_336),
    ("standard_e2s_v3", 2, 16_384),
    ("standard_e4s_v3", 4, 32_768),
    ("standard_f2s_v2", 2, 4_096),
    ("standard_f4s_v2", 4, 8_192),
    ("standard_f8s_v2", 8, 16_384),
    ("standard_f16s_v2", 16, 32_768),
    ("standard_b1s", 1, 1_024),
    ("standard_b2s", 2, 4_096),
];

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Catalogue {
    sizes: BTreeMap<String, Size>,
}

impl Default for Catalogue {
    fn default() -> Self {
        let common = COMMON.iter().map(|(name, cores, memory_mib)| {
            ((*name).to_owned(), Size { cores: *cores, memory_mib: *memory_mib })
        });
        let sizes = common.chain([(ANY.to_owned(), DEFAULT)]).collect();
        Catalogue { sizes }
    }
}

impl Catalogue {
    /// Adds or replaces an entry; `*` is the one for unknown names.
    pub fn set(&mut self, name: &str, size: Size) {
        self.sizes.insert(name.to_ascii_lowercase(), size);
    }

    /// The entry of a name, in any case. Every size takes at least one core.
    pub fn size(&self, name: &str) -> Size {
        let listed = self.sizes.get(&name.to_ascii_lowercase()).or_else(|| self.sizes.get(ANY));
        let size = listed.copied().unwrap_or(DEFAULT);
        Size { cores: size.cores.max(1), ..size }
    }

    /// Largest legal `taskSlotsPerNode` of a size: min(4 × cores, 256).
    pub fn slots_max(&self, name: &str) -> u16 {
        u16::try_from(self.size(name).cores.saturating_mul(4).min(256)).unwrap_or(256)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_in_any_case_and_unknown_ones_take_the_default() {
        let mut catalogue = Catalogue::default();
        assert_eq!(catalogue.size("STANDARD_D2s_v3"), Size { cores: 2, memory_mib: 8_192 });
        assert_eq!(catalogue.size("my-own"), DEFAULT);
        catalogue.set("*", Size { cores: 3, memory_mib: 5 });
        catalogue.set("My-Own", Size { cores: 0, memory_mib: 6 });
        assert_eq!(catalogue.size("elsewhere").cores, 3);
        assert_eq!(catalogue.size("MY-OWN"), Size { cores: 1, memory_mib: 6 });
        assert_eq!(catalogue.slots_max("standard_a1_v2"), 4);
        catalogue.set("huge", Size { cores: 1_000, memory_mib: 1 });
        assert_eq!(catalogue.slots_max("huge"), 256);
    }
}
