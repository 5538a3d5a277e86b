//! What SPIR-V declares that it needs, and whether a GPU has it.
//!
//! The manifest says the needs that choose between variants; this looks at the code itself, so that none reaches a
//! driver that would reject or miscompile it.

use super::abilities::Features;
use ash::vk::SubgroupFeatureFlags as Subgroup;

const MAGIC: u32 = 0x0723_0203;
/// First word after the header.
const HEADER_WORDS: usize = 5;
/// SPIR-V 1.6: what Vulkan 1.3 takes.
const NEWEST_VERSION: u32 = 0x0001_0600;
const OP_CAPABILITY: u32 = 17;

/// The first thing that `code` needs and a GPU with `features` lacks.
pub(super) fn missing(code: &[u32], features: &Features) -> Option<String> {
    let Some(header) = code.get(..HEADER_WORDS).filter(|h| h[0] == MAGIC) else {
        return Some("its code is not SPIR-V".into());
    };
    if header[1] > NEWEST_VERSION {
        return Some(format!(
            "its code is SPIR-V {}.{}, newer than 1.6",
            header[1] >> 16,
            (header[1] >> 8) & 0xff
        ));
    }
    // Capabilities come before all other instructions.
    let mut at = HEADER_WORDS;
    while let Some(&[word, capability]) = code.get(at..at + 2)
        && word == (2 << 16 | OP_CAPABILITY)
    {
        let (name, has) = describe(capability, features);
        if !has {
            return Some(format!("{name} (SPIR-V capability {capability})"));
        }
        at += 2;
    }
    None
}

/// A capability's name, and whether it can be used.
fn describe(capability: u32, has: &Features) -> (&'static str, bool) {
    let subgroup = |operations| has.subgroup_operations.contains(operations);
    match capability {
        0 => ("matrices", true),
        1 => ("shaders", true),
        9 => ("f16 arithmetic", has.f16),
        11 => ("64-bit integers", has.int64),
        22 => ("16-bit integers", has.int16),
        39 => ("8-bit integers", has.int8),
        61 => ("subgroups", subgroup(Subgroup::BASIC)),
        62 => ("subgroup votes", subgroup(Subgroup::VOTE)),
        63 => ("subgroup arithmetic", subgroup(Subgroup::ARITHMETIC)),
        64 => ("subgroup ballots", subgroup(Subgroup::BALLOT)),
        65 => ("subgroup shuffles", subgroup(Subgroup::SHUFFLE)),
        66 => (
            "relative subgroup shuffles",
            subgroup(Subgroup::SHUFFLE_RELATIVE),
        ),
        67 => ("subgroup clusters", subgroup(Subgroup::CLUSTERED)),
        68 => ("subgroup quads", subgroup(Subgroup::QUAD)),
        4433 => ("16-bit storage", has.storage16),
        4434 => ("16-bit uniforms and storage", has.uniform_storage16),
        4448 => ("8-bit storage", has.storage8),
        4449 => ("8-bit uniforms and storage", has.uniform_storage8),
        5345 => ("the Vulkan memory model", has.memory_model),
        5346 => (
            "the Vulkan memory model at device scope",
            has.memory_model_device_scope,
        ),
        6016..=6019 => ("integer dot products", has.int_dot),
        6022 => ("cooperative matrices", has.cooperative_matrix),
        _ => ("something this driver does not know", false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn module(version: u32, capabilities: &[u32]) -> Vec<u32> {
        let mut code = vec![MAGIC, version, 0, 1, 0];
        for &capability in capabilities {
            code.extend([2 << 16 | OP_CAPABILITY, capability]);
        }
        // OpMemoryModel: where the capabilities end.
        code.extend([3 << 16 | 14, 0, 1]);
        code
    }

    #[track_caller]
    fn expect(code: &[u32], features: &Features, want: Option<&str>) {
        assert_eq!(missing(code, features).as_deref(), want);
    }

    #[test]
    fn what_the_code_declares_is_compared_with_the_gpu() {
        let none = Features::default();
        let f16 = Features {
            f16: true,
            ..Features::default()
        };
        expect(&module(0x0001_0300, &[1]), &none, None);
        expect(
            &module(0x0001_0600, &[1, 9]),
            &none,
            Some("f16 arithmetic (SPIR-V capability 9)"),
        );
        expect(&module(0x0001_0600, &[1, 9]), &f16, None);
        expect(
            &module(0x0001_0600, &[1, 63]),
            &f16,
            Some("subgroup arithmetic (SPIR-V capability 63)"),
        );
        expect(
            &module(0x0001_0600, &[4427]),
            &f16,
            Some("something this driver does not know (SPIR-V capability 4427)"),
        );
    }

    #[test]
    fn what_is_no_spir_v_is_refused() {
        let none = Features::default();
        expect(&[], &none, Some("its code is not SPIR-V"));
        expect(&[1, 2, 3, 4, 5, 6], &none, Some("its code is not SPIR-V"));
        expect(
            &module(0x0001_0700, &[1]),
            &none,
            Some("its code is SPIR-V 1.7, newer than 1.6"),
        );
        // Cut in the middle of an instruction.
        expect(&module(0x0001_0300, &[1])[..6], &none, None);
    }
}
