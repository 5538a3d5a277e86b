//! Which variant of a kernel a GPU runs: the first, in the compiler's order, whose needs it meets, of those that go with
//! the form of activations that all kernels of a plan share. Pure.

use super::abilities::{Abilities, shape_name};
use super::capabilities;
use gembin_bundle::gpu::{Activations, Form, Kernel, Variant};

/// Which variants of kernels are taken; all compute the same.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub enum Variants {
    /// The best that the GPU can run.
    #[default]
    Best,
    /// The plainest that it can run.
    Portable,
    /// The ones of this name where the GPU can run them at all, else the best.
    Named(String),
}

impl Variants {
    /// From the words of the environment: `best`, `portable`, or the name of a variant.
    pub fn from_words(words: &str) -> Self {
        match words {
            "" | "best" => Variants::Best,
            "portable" => Variants::Portable,
            name => Variants::Named(name.to_owned()),
        }
    }
}

/// The form of activations for all kernels of a plan: of those that every one of them can run, the one in which those
/// that read them run their better variants; the first of equals.
pub(super) fn choose_form<'a>(
    kernels: impl Iterator<Item = &'a Kernel> + Clone,
    abilities: &Abilities,
    wish: &Variants,
) -> Form {
    // How far behind the best variants of all readers those of a form are.
    let behind = |form: Form| {
        let mut total = 0;
        for kernel in kernels.clone() {
            let is_reader = |v: &Variant| matches!(v.activations, Some(Activations::Reads(_)));
            let (place, variant) = runnable(kernel, abilities, wish)
                .into_iter()
                .enumerate()
                .find(|(_, variant)| has_form(variant, form))?;
            total += if is_reader(variant) { place } else { 0 };
        }
        Some(total)
    };
    Form::ALL
        .into_iter()
        .filter_map(|form| Some((behind(form)?, form)))
        .min_by_key(|&(behind, _)| behind)
        .map_or(Form::default(), |(_, form)| form)
}

/// The variant of `kernel` to run where activations have this form.
///
/// # Errors
/// The kernel's name, and what each variant lacks.
pub(super) fn choose<'a>(
    kernel: &'a Kernel,
    abilities: &Abilities,
    wish: &Variants,
    form: Form,
) -> Result<&'a Variant, String> {
    let found = runnable(kernel, abilities, wish)
        .into_iter()
        .find(|variant| has_form(variant, form));
    found.ok_or_else(|| {
        let lacking: Vec<String> = kernel
            .variants
            .iter()
            .map(|v| match lacks(v, abilities, false) {
                Some(need) => format!("{} needs {need}", v.name),
                None => format!("{} needs activations in another form", v.name),
            })
            .collect();
        format!(
            "cannot run kernel `{}`: {}",
            kernel.name,
            lacking.join("; ")
        )
    })
}

/// Whether a variant goes with activations of this form.
fn has_form(variant: &Variant, form: Form) -> bool {
    variant.activations.is_none_or(|has| has.form() == form)
}

/// The variants of a kernel that the GPU can run, in the order of the wish.
fn runnable<'a>(kernel: &'a Kernel, abilities: &Abilities, wish: &Variants) -> Vec<&'a Variant> {
    let mut variants: Vec<&Variant> = kernel
        .variants
        .iter()
        .filter(|variant| {
            let is_named = matches!(wish, Variants::Named(name) if *name == variant.name);
            lacks(variant, abilities, is_named).is_none()
        })
        .collect();
    match wish {
        Variants::Best => {}
        Variants::Portable => variants.reverse(),
        Variants::Named(name) => variants.sort_by_key(|variant| variant.name != *name),
    }
    variants
}

/// Why variants before the chosen one were passed over: `wmma16 needs subgroups of 32`.
pub(super) fn passed_over(kernel: &Kernel, chosen: &Variant, abilities: &Abilities) -> Vec<String> {
    kernel
        .variants
        .iter()
        .take_while(|variant| variant.name != chosen.name)
        .filter_map(|v| Some(format!("{} needs {}", v.name, lacks(v, abilities, false)?)))
        .collect()
}

/// What a variant needs that the GPU lacks. `slow_too`: what it has only in a slow form will do.
fn lacks(variant: &Variant, has: &Abilities, slow_too: bool) -> Option<String> {
    let needs = &variant.needs;
    if needs.int_dot && !has.fast_int_dot && !(slow_too && has.int_dot) {
        return Some("accelerated integer dot products".into());
    }
    if needs.f16 && !has.f16 {
        return Some("f16 arithmetic and storage".into());
    }
    if let Some(shape) = needs.matrix
        && !has.matrices.contains(&shape)
    {
        return Some(format!("{} matrices", shape_name(shape)));
    }
    let limits = &has.limits;
    let invocations: u64 = variant.workgroup.iter().map(|&n| u64::from(n)).product();
    if let Some(size) = variant.subgroup {
        let (least, most) = has.subgroup;
        if size < least || size > most || (!has.subgroup_control && least != most) {
            return Some(format!("subgroups of {size}"));
        }
        if has.subgroup_control
            && invocations.div_ceil(u64::from(size.max(1))) > u64::from(limits.workgroup_subgroups)
        {
            return Some(format!("{invocations} invocations in subgroups of {size}"));
        }
    }
    let fits = variant
        .workgroup
        .iter()
        .zip(limits.workgroup_size)
        .all(|(&size, most)| size <= most);
    if !fits || invocations > u64::from(limits.workgroup_invocations) {
        return Some(format!("workgroups of {:?} invocations", variant.workgroup));
    }
    if variant.workgroup_bytes > limits.workgroup_bytes {
        return Some(format!(
            "{} bytes of workgroup memory",
            variant.workgroup_bytes
        ));
    }
    capabilities::missing(&variant.code, &has.features)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drivers::vulkan::testing;
    use gembin_bundle::gpu::{MatrixShape, Needs};

    fn variant(name: &str, needs: Needs, subgroup: Option<u32>) -> Variant {
        Variant {
            name: name.into(),
            needs,
            code: vec![0x0723_0203, 0x0001_0300, 0, 1, 0],
            workgroup: [64, 1, 1],
            subgroup,
            workgroup_bytes: 1024,
            tile: [1, 1, 1],
            activations: None,
        }
    }

    fn kernel() -> Kernel {
        let matrix = Needs {
            matrix: Some(MatrixShape::F16x16),
            f16: true,
            ..Needs::default()
        };
        let dot = Needs {
            int_dot: true,
            ..Needs::default()
        };
        Kernel {
            name: "gemv".into(),
            bindings: Vec::new(),
            immediates: 0,
            variants: vec![
                variant("wmma16", matrix, Some(32)),
                variant("dot4", dot, None),
                variant("portable", Needs::default(), None),
            ],
        }
    }

    #[track_caller]
    fn expect(abilities: &Abilities, wish: Variants, want: &str) {
        let kernel = kernel();
        let got = match choose(&kernel, abilities, &wish, Form::F16) {
            Ok(variant) => variant.name.clone(),
            Err(reason) => reason,
        };
        assert_eq!(got, want);
    }

    #[test]
    fn the_first_variant_whose_needs_are_met_is_taken() {
        let mut has = testing::abilities();
        expect(&has, Variants::Best, "portable");
        has.fast_int_dot = true;
        expect(&has, Variants::Best, "dot4");
        has.f16 = true;
        has.matrices = vec![MatrixShape::F16x16];
        has.subgroup = (32, 64);
        expect(&has, Variants::Best, "wmma16");
        expect(&has, Variants::Portable, "portable");
        expect(&has, Variants::Named("dot4".into()), "dot4");
        expect(&has, Variants::Named("unheard of".into()), "wmma16");
        has.subgroup = (64, 64);
        expect(&has, Variants::Best, "dot4");
    }

    #[test]
    fn a_slow_ability_is_used_only_by_name() {
        let mut has = testing::abilities();
        has.int_dot = true;
        expect(&has, Variants::Best, "portable");
        expect(&has, Variants::Named("dot4".into()), "dot4");
    }

    /// A kernel that prepares activations, and one that reads them on matrices of either kind.
    fn kernels_of_forms() -> [Kernel; 3] {
        let on = |name: &str, matrix, form| Variant {
            activations: Some(Activations::Reads(form)),
            ..variant(
                name,
                Needs {
                    matrix,
                    ..Needs::default()
                },
                None,
            )
        };
        let prepares = |name: &str, form| Variant {
            activations: Some(Activations::Prepares(form)),
            ..variant(name, Needs::default(), None)
        };
        let named = |name: &str, variants| Kernel {
            name: name.into(),
            variants,
            ..kernel()
        };
        [
            named(
                "prepare",
                vec![prepares("f16", Form::F16), prepares("int8", Form::Int8)],
            ),
            kernel(),
            named(
                "gemm",
                vec![
                    on("matrix16", Some(MatrixShape::F16x16), Form::F16),
                    on("int8-matrix16", Some(MatrixShape::I8x16), Form::Int8),
                    on("portable", None, Form::F16),
                ],
            ),
        ]
    }

    /// What runs of the kernels of forms.
    #[track_caller]
    fn expect_together(matrices: &[MatrixShape], wish: Variants, want: [&str; 3]) {
        let kernels = kernels_of_forms();
        let mut has = testing::abilities();
        has.matrices = matrices.to_vec();
        let form = choose_form(kernels.iter(), &has, &wish);
        let got = kernels.each_ref().map(|kernel| {
            let variant = choose(kernel, &has, &wish, form).expect("it runs");
            variant.name.as_str()
        });
        assert_eq!(got, want, "{matrices:?}");
    }

    #[test]
    fn all_kernels_have_activations_in_one_form() {
        use MatrixShape::{F16x16, I8x16};
        let f16 = ["f16", "portable", "matrix16"];
        let int8 = ["int8", "portable", "int8-matrix16"];
        let plain = ["f16", "portable", "portable"];
        expect_together(&[F16x16], Variants::Best, f16);
        expect_together(&[I8x16], Variants::Best, int8);
        expect_together(&[F16x16, I8x16], Variants::Best, f16);
        expect_together(&[], Variants::Best, plain);
        expect_together(&[F16x16, I8x16], Variants::Portable, plain);
        let named = |name: &str| Variants::Named(name.into());
        expect_together(&[F16x16, I8x16], named("int8-matrix16"), int8);
        expect_together(&[F16x16, I8x16], named("matrix16"), f16);
        expect_together(&[F16x16], named("int8-matrix16"), f16);
        // A form that a kernel cannot be run in is none for the others either.
        let mut kernels = kernels_of_forms();
        kernels[0].variants.truncate(1);
        let mut has = testing::abilities();
        has.matrices = vec![I8x16];
        let form = choose_form(kernels.iter(), &has, &Variants::Best);
        assert_eq!(form, Form::F16);
    }

    #[test]
    fn what_is_missing_is_named_for_every_variant() {
        let mut has = testing::abilities();
        has.limits.workgroup_bytes = 512;
        expect(
            &has,
            Variants::Best,
            "cannot run kernel `gemv`: wmma16 needs f16 arithmetic and storage; \
             dot4 needs accelerated integer dot products; portable needs 1024 bytes of workgroup memory",
        );
    }

    #[test]
    fn what_was_passed_over_is_told() {
        let has = testing::abilities();
        let kernel = kernel();
        let chosen = choose(&kernel, &has, &Variants::Best, Form::F16).unwrap();
        assert_eq!(
            passed_over(&kernel, chosen, &has),
            [
                "wmma16 needs f16 arithmetic and storage",
                "dot4 needs accelerated integer dot products"
            ]
        );
    }

    #[test]
    fn the_environment_names_them() {
        assert_eq!(Variants::from_words("best"), Variants::Best);
        assert_eq!(Variants::from_words("portable"), Variants::Portable);
        assert_eq!(Variants::from_words("dot4"), Variants::Named("dot4".into()));
    }
}
