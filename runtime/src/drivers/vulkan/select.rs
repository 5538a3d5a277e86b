//! Which of a machine's GPUs to use: a pure choice over what they can do.

use super::abilities::{Gpu, Kind};

/// Which GPU is asked for.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub enum Pick {
    /// The best that is a GPU indeed.
    #[default]
    Hardware,
    /// The best; the processor pretending to be one, if there is nothing else.
    Best,
    /// The one with that place in the list, or else the first whose name contains the text, whatever its case.
    Named(String),
}

/// The GPU to use.
///
/// # Errors
/// Why none can be used: the reason of the one asked for, or of each.
pub(super) fn select<'a>(gpus: &'a [Gpu], pick: &Pick) -> Result<&'a Gpu, String> {
    let usable = |gpu: &Gpu| gpu.abilities.is_ok();
    let reason = |gpu: &Gpu| match &gpu.abilities {
        Ok(_) => format!(
            "{} is the processor in a GPU's clothes (--device vulkan takes it all the same)",
            gpu.name
        ),
        Err(reason) => format!("{}: {reason}", gpu.name),
    };
    match pick {
        Pick::Hardware | Pick::Best => gpus
            .iter()
            .filter(|gpu| usable(gpu) && (*pick == Pick::Best || gpu.kind != Kind::Software))
            // The first of equals: `min_by_key` keeps it.
            .min_by_key(|gpu| rank(gpu.kind))
            .ok_or_else(|| gpus.iter().map(reason).collect::<Vec<_>>().join("; ")),
        Pick::Named(name) => {
            let gpu = named(gpus, name)?;
            if usable(gpu) {
                Ok(gpu)
            } else {
                Err(reason(gpu))
            }
        }
    }
}

fn named<'a>(gpus: &'a [Gpu], name: &str) -> Result<&'a Gpu, String> {
    let numbered = name.parse().ok().and_then(|index: usize| gpus.get(index));
    let found = numbered.or_else(|| {
        let wanted = name.to_lowercase();
        let fits = |gpu: &&Gpu| gpu.name.to_lowercase().contains(&wanted);
        // A usable one of several that fit.
        let mut fitting = gpus.iter().filter(fits);
        fitting
            .clone()
            .find(|gpu| gpu.abilities.is_ok())
            .or_else(|| fitting.next())
    });
    found.ok_or_else(|| {
        let known: Vec<String> = gpus
            .iter()
            .map(|gpu| format!("vulkan:{} ({})", gpu.index, gpu.name))
            .collect();
        format!("no GPU {name:?}; this machine has {}", known.join(", "))
    })
}

/// Lower is better.
fn rank(kind: Kind) -> u32 {
    match kind {
        Kind::Discrete => 0,
        Kind::Integrated => 1,
        Kind::Virtual => 2,
        Kind::Other => 3,
        Kind::Software => 4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drivers::vulkan::testing;

    fn gpu(index: usize, name: &str, kind: Kind, reason: Option<&str>) -> Gpu {
        Gpu {
            index,
            name: name.into(),
            kind,
            abilities: match reason {
                None => Ok(testing::abilities()),
                Some(reason) => Err(reason.into()),
            },
            physical: ash::vk::PhysicalDevice::null(),
        }
    }

    fn machine() -> Vec<Gpu> {
        vec![
            gpu(0, "llvmpipe", Kind::Software, None),
            gpu(
                1,
                "Old Card",
                Kind::Discrete,
                Some("its driver has Vulkan 1.1"),
            ),
            gpu(2, "Radeon 780M", Kind::Integrated, None),
        ]
    }

    #[track_caller]
    fn expect(pick: Pick, want: Result<usize, &str>) {
        let gpus = machine();
        let got = select(&gpus, &pick).map(|gpu| gpu.index);
        match want {
            Ok(index) => assert_eq!(got, Ok(index)),
            Err(part) => {
                let error = got.expect_err("a refusal");
                assert!(error.contains(part), "{error}");
            }
        }
    }

    #[test]
    fn the_best_usable_gpu_is_taken() {
        expect(Pick::Hardware, Ok(2));
        expect(Pick::Best, Ok(2));
    }

    #[test]
    fn a_gpu_is_named_by_index_or_by_a_part_of_its_name() {
        expect(Pick::Named("0".into()), Ok(0));
        expect(Pick::Named("RADEON".into()), Ok(2));
        expect(
            Pick::Named("1".into()),
            Err("Old Card: its driver has Vulkan 1.1"),
        );
        expect(
            Pick::Named("9".into()),
            Err("no GPU \"9\"; this machine has vulkan:0 (llvmpipe), vulkan:1 (Old Card)"),
        );
        expect(Pick::Named("geforce".into()), Err("no GPU \"geforce\""));
    }

    #[test]
    fn the_pretender_is_taken_only_when_asked_for() {
        let gpus = &machine()[..2];
        assert_eq!(select(gpus, &Pick::Best).map(|gpu| gpu.index), Ok(0));
        let error = select(gpus, &Pick::Hardware).err().expect("a refusal");
        assert!(error.contains("llvmpipe is the processor"), "{error}");
        assert!(error.contains("Old Card: its driver"), "{error}");
    }
}
