//! Attributes of ops: the few types an attribute can have, and how generic code (printer, parser, verifier, passes)
//! walks over them without knowing the ops.

use crate::entity::{CacheId, WeightId};
use crate::ops::Epilogue;

/// The value of an attribute.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Attr {
    /// A number.
    F32(f32),
    /// A count or an index.
    U32(u32),
    /// A weight the op needs.
    Weight(WeightId),
    /// A weight the op can do without.
    OptionalWeight(Option<WeightId>),
    /// A cache.
    Cache(CacheId),
    /// What follows a linear.
    Epilogue(Epilogue),
}

/// Where the attributes of an op come from when it is made from text.
pub trait AttrReader {
    /// Why an attribute cannot be had.
    type Error;
    /// A number.
    ///
    /// # Errors
    /// It is missing or of another type; the same holds for all methods.
    fn f32(&mut self, field: &'static str) -> Result<f32, Self::Error>;
    /// A count.
    ///
    /// # Errors
    /// See [`AttrReader::f32`].
    fn u32(&mut self, field: &'static str) -> Result<u32, Self::Error>;
    /// A weight.
    ///
    /// # Errors
    /// See [`AttrReader::f32`].
    fn weight(&mut self, field: &'static str) -> Result<WeightId, Self::Error>;
    /// A weight, or none.
    ///
    /// # Errors
    /// See [`AttrReader::f32`].
    fn optional_weight(&mut self, field: &'static str) -> Result<Option<WeightId>, Self::Error>;
    /// A cache.
    ///
    /// # Errors
    /// See [`AttrReader::f32`].
    fn cache(&mut self, field: &'static str) -> Result<CacheId, Self::Error>;
    /// An epilogue; absent means none.
    ///
    /// # Errors
    /// See [`AttrReader::f32`].
    fn epilogue(&mut self, field: &'static str) -> Result<Epilogue, Self::Error>;
}

/// A type that an attribute can have.
pub(crate) trait AttrType: Copy {
    fn to_attr(self) -> Attr;
    fn read<R: AttrReader + ?Sized>(field: &'static str, from: &mut R) -> Result<Self, R::Error>;
    fn weight_mut(&mut self) -> Option<&mut WeightId> {
        None
    }
}

impl AttrType for f32 {
    fn to_attr(self) -> Attr {
        Attr::F32(self)
    }
    fn read<R: AttrReader + ?Sized>(field: &'static str, from: &mut R) -> Result<Self, R::Error> {
        from.f32(field)
    }
}

impl AttrType for u32 {
    fn to_attr(self) -> Attr {
        Attr::U32(self)
    }
    fn read<R: AttrReader + ?Sized>(field: &'static str, from: &mut R) -> Result<Self, R::Error> {
        from.u32(field)
    }
}

impl AttrType for WeightId {
    fn to_attr(self) -> Attr {
        Attr::Weight(self)
    }
    fn read<R: AttrReader + ?Sized>(field: &'static str, from: &mut R) -> Result<Self, R::Error> {
        from.weight(field)
    }
    fn weight_mut(&mut self) -> Option<&mut WeightId> {
        Some(self)
    }
}

impl AttrType for Option<WeightId> {
    fn to_attr(self) -> Attr {
        Attr::OptionalWeight(self)
    }
    fn read<R: AttrReader + ?Sized>(field: &'static str, from: &mut R) -> Result<Self, R::Error> {
        from.optional_weight(field)
    }
    fn weight_mut(&mut self) -> Option<&mut WeightId> {
        self.as_mut()
    }
}

impl AttrType for CacheId {
    fn to_attr(self) -> Attr {
        Attr::Cache(self)
    }
    fn read<R: AttrReader + ?Sized>(field: &'static str, from: &mut R) -> Result<Self, R::Error> {
        from.cache(field)
    }
}

impl AttrType for Epilogue {
    fn to_attr(self) -> Attr {
        Attr::Epilogue(self)
    }
    fn read<R: AttrReader + ?Sized>(field: &'static str, from: &mut R) -> Result<Self, R::Error> {
        from.epilogue(field)
    }
}
