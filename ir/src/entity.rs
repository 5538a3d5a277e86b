//! Typed indices. Each entity's `Display` is its spelling in `.gir` text where that spelling is an index (`%3`);
//! weights and caches are spelled by name, so their indices print only in error messages.

use std::fmt;

macro_rules! entity {
    ($(#[$doc:meta])* $name:ident, $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
        pub struct $name(u32);

        impl $name {
            /// The entity at `index` of its table.
            pub fn new(index: usize) -> Self {
                Self(u32::try_from(index).expect("entity tables hold fewer than 2^32 entries"))
            }

            /// The position in its table.
            pub fn index(self) -> usize {
                self.0 as usize
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "{}"), self.0)
            }
        }
    };
}

entity!(
    /// A tensor computed by a function: a parameter or an op's result.
    ValueId, "%"
);
entity!(
    /// A constant tensor of the module.
    WeightId, "@w"
);
entity!(
    /// A KV cache of the module, which lives across calls.
    CacheId, "@c"
);
