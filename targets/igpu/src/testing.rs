//! What the tests of all kernels share: lowering held to the bundle's check, and snapshots.

use crate::kernel::{Guards, Kernels};
use crate::{disassemble, lower_with};
use gembin_bundle::check;
use gembin_bundle::gpu::Kernel;
use gembin_bundle::manifest::Manifest;
use std::fmt::Debug;

/// The manifest with the GPU's plan beside the processor's, as the bundle would have it, after the bundle's check.
pub(crate) fn lowered(mut manifest: Manifest, weights_bytes: u64, model: &dyn Debug) -> Manifest {
    let mut kernels = Kernels::new(Guards::Off);
    let plan =
        lower_with(&manifest, &mut kernels).unwrap_or_else(|error| panic!("{model:?}: {error}"));
    manifest.kernels = kernels.finish();
    manifest.plans.push(plan);
    if let Err(error) = check::check(manifest.clone(), weights_bytes) {
        panic!("{model:?}: {error}");
    }
    manifest
}

/// Snapshots of the first kernel of a manifest's GPU plan whose name starts with `kind`.
pub(crate) fn snapshot_of(manifest: &Manifest, kind: &str) {
    let mut kernels = Kernels::new(Guards::Off);
    lower_with(manifest, &mut kernels).unwrap();
    let (kernel, sources) = kernels
        .sources()
        .find(|(kernel, _)| kernel.name.starts_with(kind))
        .unwrap();
    snapshot(kernel, sources, &kind.replace(' ', "_"));
}

/// The WGSL and the SPIR-V of each variant of a kernel.
pub(crate) fn snapshot(kernel: &Kernel, sources: &[String], name: &str) {
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path("../../../testdata/targets/igpu");
    settings.set_prepend_module_to_snapshot(false);
    settings.bind(|| {
        for (variant, wgsl) in kernel.variants.iter().zip(sources) {
            let name = format!("{name}_{}", variant.name);
            insta::assert_snapshot!(format!("{name}.wgsl"), wgsl);
            insta::assert_snapshot!(format!("{name}.spv"), disassemble(&variant.code).unwrap());
        }
    });
}
