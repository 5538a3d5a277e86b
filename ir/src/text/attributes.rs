//! Attributes of one op as the text gives them, handed out as the op's table entry asks for them, with an error where
//! the text and the entry disagree.

use super::lexer::{Spot, clip};
use super::parse::{NameAt, ParseError, Parsed};
use crate::entity::{CacheId, WeightId};
use crate::ops::{AttrReader, Epilogue};
use std::collections::HashMap;

pub(super) struct Attribute<'t> {
    pub name: &'t str,
    pub spot: Spot,
    pub value: RawAttr<'t>,
}

/// The value of an attribute before anyone knows its type.
pub(super) enum RawAttr<'t> {
    Number(&'t str),
    Name(NameAt),
    Call(&'t str, &'t str),
}

/// Names and attributes given to an op, handed out as its table entry asks for them.
pub(super) struct Arguments<'a, 't> {
    pub op: &'t str,
    pub spot: Spot,
    pub names: std::vec::IntoIter<NameAt>,
    pub attributes: Vec<Attribute<'t>>,
    pub weights: &'a HashMap<String, WeightId>,
    pub caches: &'a HashMap<String, CacheId>,
}

impl<'t> Arguments<'_, 't> {
    fn take(&mut self, field: &str) -> Option<Attribute<'t>> {
        let i = self.attributes.iter().position(|a| a.name == field)?;
        Some(self.attributes.remove(i))
    }

    fn number<T: std::str::FromStr>(&mut self, field: &str, what: &str) -> Parsed<(T, Spot)> {
        let Some(attribute) = self.take(field) else {
            let message = format!("{} needs `{field} = {what}` in braces", self.op);
            return Err(ParseError::new(self.spot, message));
        };
        match attribute.value {
            RawAttr::Number(digits) => {
                Ok((number_in(digits, what, attribute.spot)?, attribute.spot))
            }
            RawAttr::Name(_) | RawAttr::Call(..) => {
                let message = format!("`{field}` must be {what}");
                Err(ParseError::new(attribute.spot, message))
            }
        }
    }

    fn name(&mut self, field: &str, what: &str) -> Parsed<NameAt> {
        self.names.next().ok_or_else(|| {
            let message = format!("{} needs {what} (`{field}`) after its operands", self.op);
            ParseError::new(self.spot, message)
        })
    }

    fn declared_weight(&self, (name, spot): NameAt) -> Parsed<WeightId> {
        self.weights.get(&name).copied().ok_or_else(|| {
            ParseError::new(spot, format!("weight @{} is not declared", clip(&name)))
        })
    }

    /// Everything must have been asked for.
    pub fn finish(mut self) -> Parsed<()> {
        if let Some((name, spot)) = self.names.next() {
            let message = format!("{} does not take @{}", self.op, clip(&name));
            return Err(ParseError::new(spot, message));
        }
        if let Some(attribute) = self.attributes.first() {
            let message = format!(
                "{} has no attribute `{}`, or has it already",
                self.op,
                clip(attribute.name)
            );
            return Err(ParseError::new(attribute.spot, message));
        }
        Ok(())
    }
}

impl AttrReader for Arguments<'_, '_> {
    type Error = ParseError;

    fn f32(&mut self, field: &'static str) -> Parsed<f32> {
        let (x, spot) = self.number(field, "a number")?;
        finite(x, spot)
    }

    fn u32(&mut self, field: &'static str) -> Parsed<u32> {
        Ok(self.number(field, "a whole number below 2^32")?.0)
    }

    fn weight(&mut self, field: &'static str) -> Parsed<WeightId> {
        let name = self.name(field, "a weight's @name")?;
        self.declared_weight(name)
    }

    fn optional_weight(&mut self, field: &'static str) -> Parsed<Option<WeightId>> {
        let Some(attribute) = self.take(field) else {
            return Ok(None);
        };
        match attribute.value {
            RawAttr::Name(name) => self.declared_weight(name).map(Some),
            RawAttr::Number(_) | RawAttr::Call(..) => {
                let message = format!("`{field}` must be a weight's @name");
                Err(ParseError::new(attribute.spot, message))
            }
        }
    }

    fn cache(&mut self, field: &'static str) -> Parsed<CacheId> {
        let (name, spot) = self.name(field, "a cache's @name")?;
        self.caches
            .get(&name)
            .copied()
            .ok_or_else(|| ParseError::new(spot, format!("cache @{} is not declared", clip(&name))))
    }

    fn epilogue(&mut self, field: &'static str) -> Parsed<Epilogue> {
        let Some(attribute) = self.take(field) else {
            return Ok(Epilogue::None);
        };
        let spot = attribute.spot;
        match attribute.value {
            RawAttr::Call("geglu", digits) => {
                let width = number_in(digits, "a whole number below 2^32", spot)?;
                Ok(Epilogue::Geglu { width })
            }
            RawAttr::Call("softcap", digits) => {
                let cap = finite(number_in(digits, "a number", spot)?, spot)?;
                Ok(Epilogue::Softcap { cap })
            }
            RawAttr::Call(..) | RawAttr::Number(_) | RawAttr::Name(_) => {
                let message = format!("`{field}` must be geglu(width) or softcap(cap)");
                Err(ParseError::new(spot, message))
            }
        }
    }
}

fn number_in<T: std::str::FromStr>(digits: &str, what: &str, spot: Spot) -> Parsed<T> {
    digits.parse().map_err(|_| {
        let message = format!("expected {what}, found `{}`", clip(digits));
        ParseError::new(spot, message)
    })
}

/// A literal too large for f32 reads as infinity.
pub(super) fn finite(x: f32, spot: Spot) -> Parsed<f32> {
    if x.is_finite() {
        return Ok(x);
    }
    let message = "the number is too large for an f32".to_owned();
    Err(ParseError::new(spot, message))
}
