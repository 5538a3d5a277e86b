//! Instruction sets: which ones the kernels are compiled for, and which of them this processor has.
//!
//! Detection is by CPUID at run time; a release binary is never compiled for the machine that builds it.

use crate::drivers::DriverError;

/// Environment variable that forces an instruction set, for tests, benchmarks and comparison with other programs.
pub const ISA_VARIABLE: &str = "GEMRUN_ISA";

/// A set of instructions that the kernels exist for, weakest first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Isa {
    /// Plain Rust, on any processor.
    Scalar,
    /// AVX2 with FMA and F16C.
    Avx2,
    /// [`Isa::Avx2`] with the 256-bit byte dot product.
    AvxVnni,
    /// AVX-512 F, BW, VL, DQ and the 512-bit byte dot product.
    Avx512,
    /// [`Isa::Avx512`] with the bf16 dot product.
    Avx512Bf16,
}

impl Isa {
    /// Every one, weakest first.
    pub const ALL: [Isa; 5] = [
        Isa::Scalar,
        Isa::Avx2,
        Isa::AvxVnni,
        Isa::Avx512,
        Isa::Avx512Bf16,
    ];

    /// The name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Isa::Scalar => "scalar",
            Isa::Avx2 => "avx2",
            Isa::AvxVnni => "avx-vnni",
            Isa::Avx512 => "avx512",
            Isa::Avx512Bf16 => "avx512-bf16",
        }
    }

    /// The name in a sentence.
    pub fn title(self) -> &'static str {
        match self {
            Isa::Scalar => "scalar",
            Isa::Avx2 => "AVX2",
            Isa::AvxVnni => "AVX-VNNI",
            Isa::Avx512 => "AVX-512 VNNI",
            Isa::Avx512Bf16 => "AVX-512 VNNI BF16",
        }
    }

    /// Whether this processor has it.
    pub fn is_available(self) -> bool {
        #[cfg(target_arch = "x86_64")]
        {
            let avx2 = || {
                is_x86_feature_detected!("avx2")
                    && is_x86_feature_detected!("fma")
                    && is_x86_feature_detected!("f16c")
            };
            let avx512 = || {
                avx2()
                    && is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512vl")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vnni")
            };
            match self {
                Isa::Scalar => true,
                Isa::Avx2 => avx2(),
                Isa::AvxVnni => avx2() && is_x86_feature_detected!("avxvnni"),
                Isa::Avx512 => avx512(),
                Isa::Avx512Bf16 => avx512() && is_x86_feature_detected!("avx512bf16"),
            }
        }
        #[cfg(not(target_arch = "x86_64"))]
        {
            self == Isa::Scalar
        }
    }

    /// The strongest one this processor has.
    pub fn detect() -> Isa {
        Isa::ALL
            .into_iter()
            .rev()
            .find(|isa| isa.is_available())
            .unwrap_or(Isa::Scalar)
    }

    /// The one of this name.
    ///
    /// # Errors
    /// An unknown name, or one that this processor lacks.
    pub fn from_name(name: &str) -> Result<Isa, DriverError> {
        let unavailable = |reason: String| DriverError::Unavailable {
            device: "cpu",
            reason,
        };
        let isa = Isa::ALL
            .into_iter()
            .find(|isa| isa.name() == name)
            .ok_or_else(|| {
                let names: Vec<&str> = Isa::ALL.iter().map(|isa| isa.name()).collect();
                unavailable(format!(
                    "no instruction set is named `{name}`; choose one of {}",
                    names.join(", ")
                ))
            })?;
        isa.require()?;
        Ok(isa)
    }

    /// The one that [`ISA_VARIABLE`] names, or else the strongest.
    ///
    /// # Errors
    /// As [`Isa::from_name`].
    pub fn from_environment() -> Result<Isa, DriverError> {
        match std::env::var(ISA_VARIABLE) {
            Ok(name) if !name.is_empty() => Isa::from_name(&name),
            Ok(_) | Err(std::env::VarError::NotPresent) => Ok(Isa::detect()),
            Err(std::env::VarError::NotUnicode(_)) => Err(DriverError::Unavailable {
                device: "cpu",
                reason: format!("{ISA_VARIABLE} is not valid UTF-8"),
            }),
        }
    }

    /// # Errors
    /// When this processor lacks it.
    pub(crate) fn require(self) -> Result<(), DriverError> {
        if self.is_available() {
            return Ok(());
        }
        Err(DriverError::Unavailable {
            device: "cpu",
            reason: format!(
                "this processor has no {}; the best it has is `{}`",
                self.title(),
                Isa::detect().name()
            ),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_detected_set_is_available_and_found_by_name() {
        let isa = Isa::detect();
        assert!(isa.is_available());
        assert_eq!(Isa::from_name(isa.name()).unwrap(), isa);
    }

    #[test]
    fn unknown_names_are_refused_with_the_choices() {
        let message = Isa::from_name("sse9").unwrap_err().to_string();
        assert!(
            message.contains("`sse9`") && message.contains("avx512"),
            "{message}"
        );
    }
}
