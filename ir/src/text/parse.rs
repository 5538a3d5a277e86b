//! The parser of `.gir` text: by hand, one word of lookahead (two where an operand list may be empty), no recursion.
//! What it allocates is bounded by the length of the text, whatever the text says. It checks what a module cannot
//! express (names that do not resolve, attributes an op does not have); all else is the verifier's.

use super::attributes::{Arguments, Attribute, RawAttr, finite};
use super::lexer::{Lexer, Spot, Token, clip};
use crate::entity::{CacheId, ValueId, WeightId};
use crate::module::{
    Cache, DimBounds, Function, Layout, Module, Op, Place, Value, Weight, WeightExpr,
};
use crate::ops::OpKind;
use crate::types::{DType, Dim, TensorType};
use crate::verify::At;
use std::collections::HashMap;

/// Why a text is not a module.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{line}:{column}: {message}")]
pub struct ParseError {
    /// Line, counted from 1.
    pub line: usize,
    /// Character of the line, counted from 1.
    pub column: usize,
    /// What was expected, and what was found.
    pub message: String,
}

impl ParseError {
    pub(super) fn new(at: Spot, message: String) -> Self {
        Self {
            line: at.line,
            column: at.column,
            message,
        }
    }
}

/// Lines of a module's parts in the text it came from, so that the verifier's faults can point there.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Lines {
    module: usize,
    weights: Vec<usize>,
    caches: Vec<usize>,
    functions: Vec<FunctionLines>,
}

#[derive(Clone, PartialEq, Eq, Debug, Default)]
struct FunctionLines {
    start: usize,
    values: Vec<usize>,
    ops: Vec<usize>,
    results: usize,
}

impl Lines {
    /// The line of a part; that of the module if there is no such part.
    pub fn line_of(&self, at: At) -> usize {
        let function = |i: usize| self.functions.get(i);
        let line = match at {
            At::Module => None,
            At::Weight(id) => self.weights.get(id.index()).copied(),
            At::Cache(id) => self.caches.get(id.index()).copied(),
            At::Function(i) => function(i).map(|f| f.start),
            At::Value(i, id) => function(i).and_then(|f| f.values.get(id.index()).copied()),
            At::Op(i, op) => function(i).and_then(|f| f.ops.get(op).copied()),
            At::Results(i) => function(i).map(|f| f.results),
        };
        line.unwrap_or(self.module)
    }
}

/// The module that `text` spells.
///
/// # Errors
/// The first place where the text is not a module.
pub fn parse(text: &str) -> Result<Module, ParseError> {
    parse_with_lines(text).map(|(module, _)| module)
}

/// As [`parse`], with the line of every part.
///
/// # Errors
/// As [`parse`].
pub fn parse_with_lines(text: &str) -> Result<(Module, Lines), ParseError> {
    let mut lexer = Lexer::new(text);
    let (token, spot) = lexer.next()?;
    let mut parser = Parser {
        lexer,
        token,
        spot,
        weights: HashMap::new(),
        caches: HashMap::new(),
        lines: Lines::default(),
    };
    let module = parser.module()?;
    Ok((module, parser.lines))
}

pub(super) type Parsed<T> = Result<T, ParseError>;

struct Parser<'t> {
    lexer: Lexer<'t>,
    /// The next word, and where it begins.
    token: Token<'t>,
    spot: Spot,
    weights: HashMap<String, WeightId>,
    caches: HashMap<String, CacheId>,
    lines: Lines,
}

/// A name that may be declared further down.
pub(super) type NameAt = (String, Spot);

/// A weight expression before its names are resolved.
enum RawExpr {
    Tensor(String),
    Concat(Vec<NameAt>),
    Interleave(NameAt, NameAt, u32),
    Offset(NameAt, f32),
}

impl<'t> Parser<'t> {
    // ---- words ----

    fn advance(&mut self) -> Parsed<Token<'t>> {
        let (token, spot) = self.lexer.next()?;
        self.spot = spot;
        Ok(std::mem::replace(&mut self.token, token))
    }

    fn expected<T>(&self, what: &str) -> Parsed<T> {
        let message = format!("expected {what}, found {}", self.token.describe());
        Err(ParseError::new(self.spot, message))
    }

    fn is_word(&self, word: &str) -> bool {
        self.token == Token::Word(word)
    }

    fn is_mark(&self, mark: char) -> bool {
        self.token == Token::Mark(mark)
    }

    fn mark(&mut self, mark: char) -> Parsed<()> {
        if !self.is_mark(mark) {
            return self.expected(&format!("`{mark}`"));
        }
        self.advance().map(drop)
    }

    fn keyword(&mut self, word: &str) -> Parsed<()> {
        if !self.is_word(word) {
            return self.expected(&format!("`{word}`"));
        }
        self.advance().map(drop)
    }

    fn word(&mut self, what: &str) -> Parsed<&'t str> {
        let Token::Word(word) = self.token else {
            return self.expected(what);
        };
        self.advance()?;
        Ok(word)
    }

    fn number<T: std::str::FromStr>(&mut self, what: &str) -> Parsed<T> {
        let Token::Number(digits) = self.token else {
            return self.expected(what);
        };
        let Ok(number) = digits.parse() else {
            return self.expected(what);
        };
        self.advance()?;
        Ok(number)
    }

    fn u32(&mut self) -> Parsed<u32> {
        self.number("a whole number below 2^32")
    }

    fn u64(&mut self) -> Parsed<u64> {
        self.number("a whole number below 2^64")
    }

    fn f32(&mut self) -> Parsed<f32> {
        let spot = self.spot;
        finite(self.number("a number")?, spot)
    }

    fn text(&mut self, what: &str) -> Parsed<String> {
        if !matches!(self.token, Token::Text(_)) {
            return self.expected(what);
        }
        match self.advance()? {
            Token::Text(text) => Ok(text.into_owned()),
            _ => unreachable!("the token was just looked at"),
        }
    }

    fn at_name(&mut self, what: &str) -> Parsed<NameAt> {
        if !matches!(self.token, Token::At(_)) {
            return self.expected(what);
        }
        let spot = self.spot;
        match self.advance()? {
            Token::At(name) => Ok((name.into_owned(), spot)),
            _ => unreachable!("the token was just looked at"),
        }
    }

    /// Items parted by commas, up to and with `close`.
    fn list(&mut self, close: char, mut item: impl FnMut(&mut Self) -> Parsed<()>) -> Parsed<()> {
        if !self.is_mark(close) {
            item(self)?;
            while self.is_mark(',') {
                self.advance()?;
                item(self)?;
            }
        }
        if !self.is_mark(close) {
            return self.expected(&format!("`,` or `{close}`"));
        }
        self.advance().map(drop)
    }

    /// `{a = 1, b = 2}` with some of `fields`, in any order.
    fn fields<const N: usize>(&mut self, fields: [&str; N]) -> Parsed<[Option<u64>; N]> {
        let mut values = [None; N];
        self.mark('{')?;
        self.list('}', |p| {
            let known = fields.iter().position(|field| p.is_word(field));
            let Some(i) = known.filter(|i| values[*i].is_none()) else {
                return p.expected(&format!("one of {} (each once)", fields.join(", ")));
            };
            p.advance()?;
            p.mark('=')?;
            values[i] = Some(p.u64()?);
            Ok(())
        })?;
        Ok(values)
    }

    // ---- declarations ----

    fn module(&mut self) -> Parsed<Module> {
        self.lines.module = self.spot.line;
        self.keyword("module")?;
        let name = self.text("the module's name in quotes")?;
        let spot = self.spot;
        let [chunk, outs, context, slots, arena_bytes] =
            self.fields(["chunk", "outs", "context", "slots", "arena_bytes"])?;
        let bounds = DimBounds {
            chunk: needed("chunk", chunk, spot)?,
            outs: needed("outs", outs, spot)?,
            context: needed("context", context, spot)?,
            slots: needed("slots", slots, spot)?,
        };
        let mut module = Module::new(name, bounds);
        module.arena_bytes = arena_bytes;
        self.declarations(&mut module)?;
        while self.is_word("func") {
            let function = self.function()?;
            module.functions.push(function);
        }
        if self.token != Token::End {
            return self
                .expected("`weight`, `cache` or `func`, in that order, or the end of the text");
        }
        Ok(module)
    }

    fn declarations(&mut self, module: &mut Module) -> Parsed<()> {
        let mut expressions = Vec::new();
        loop {
            let spot = self.spot;
            if self.is_word("weight") {
                let (weight, raw) = self.weight()?;
                if self.weights.contains_key(&weight.name) {
                    let message = format!("weight @{} is declared twice", clip(&weight.name));
                    return Err(ParseError::new(spot, message));
                }
                self.lines.weights.push(spot.line);
                self.weights
                    .insert(weight.name.clone(), WeightId::new(module.weights.len()));
                expressions.push(raw);
                module.weights.push(weight);
            } else if self.is_word("cache") {
                let cache = self.cache()?;
                if self.caches.contains_key(&cache.name) {
                    let message = format!("cache @{} is declared twice", clip(&cache.name));
                    return Err(ParseError::new(spot, message));
                }
                self.lines.caches.push(spot.line);
                self.caches
                    .insert(cache.name.clone(), CacheId::new(module.caches.len()));
                module.caches.push(cache);
            } else {
                break;
            }
        }
        for (weight, raw) in module.weights.iter_mut().zip(expressions) {
            weight.expr = self.resolve(raw)?;
        }
        Ok(())
    }

    fn weight(&mut self) -> Parsed<(Weight, RawExpr)> {
        self.advance()?;
        let (name, _) = self.at_name("the weight's @name")?;
        self.mark(':')?;
        let dtype = self.dtype()?;
        let mut shape = Vec::new();
        self.mark('[')?;
        self.list(']', |p| {
            shape.push(p.u32()?);
            Ok(())
        })?;
        let layout = if self.is_word("rows16") {
            self.advance()?;
            Layout::Rows16
        } else {
            Layout::RowMajor
        };
        self.mark('=')?;
        let raw = match self.token {
            Token::Word("tensor") => {
                self.advance()?;
                RawExpr::Tensor(self.text("the tensor's name in quotes")?)
            }
            Token::Word("concat") => {
                self.advance()?;
                let mut parts = vec![self.at_name("a weight's @name")?];
                while self.is_mark(',') {
                    self.advance()?;
                    parts.push(self.at_name("a weight's @name")?);
                }
                RawExpr::Concat(parts)
            }
            Token::Word("interleave") => {
                self.advance()?;
                let a = self.at_name("a weight's @name")?;
                self.mark(',')?;
                let b = self.at_name("a weight's @name")?;
                self.keyword("block")?;
                RawExpr::Interleave(a, b, self.u32()?)
            }
            Token::Word("offset") => {
                self.advance()?;
                let of = self.at_name("a weight's @name")?;
                self.keyword("by")?;
                RawExpr::Offset(of, self.f32()?)
            }
            _ => return self.expected("`tensor`, `concat`, `interleave` or `offset`"),
        };
        let expr = WeightExpr::ConcatRows(Vec::new());
        let weight = Weight {
            name,
            dtype,
            shape,
            expr,
            layout,
        };
        Ok((weight, raw))
    }

    fn resolve(&self, raw: RawExpr) -> Parsed<WeightExpr> {
        let id = |(name, spot): NameAt| {
            let message = || format!("weight @{} is not declared", clip(&name));
            let found = self.weights.get(&name).copied();
            found.ok_or_else(|| ParseError::new(spot, message()))
        };
        Ok(match raw {
            RawExpr::Tensor(name) => WeightExpr::Tensor(name),
            RawExpr::Concat(parts) => {
                WeightExpr::ConcatRows(parts.into_iter().map(id).collect::<Parsed<_>>()?)
            }
            RawExpr::Interleave(a, b, block) => WeightExpr::InterleaveRows {
                a: id(a)?,
                b: id(b)?,
                block,
            },
            RawExpr::Offset(of, add) => WeightExpr::Offset { of: id(of)?, add },
        })
    }

    fn cache(&mut self) -> Parsed<Cache> {
        self.advance()?;
        let (name, _) = self.at_name("the cache's @name")?;
        self.mark(':')?;
        let dtype = self.dtype()?;
        let spot = self.spot;
        let [kv_heads, head_dim, window, capacity] =
            self.fields(["kv_heads", "head_dim", "window", "capacity"])?;
        Ok(Cache {
            name,
            dtype,
            kv_heads: needed("kv_heads", kv_heads, spot)?,
            head_dim: needed("head_dim", head_dim, spot)?,
            window: small("window", window, spot)?,
            capacity: small("capacity", capacity, spot)?,
            place: self.place("at")?,
        })
    }

    fn dtype(&mut self) -> Parsed<DType> {
        let found = match self.token {
            Token::Word(word) => DType::ALL.into_iter().find(|dtype| dtype.name() == word),
            _ => None,
        };
        let Some(dtype) = found else {
            return self.expected(&format!(
                "a dtype ({})",
                DType::ALL.map(DType::name).join(", ")
            ));
        };
        self.advance()?;
        Ok(dtype)
    }

    /// `word 4096+1024`, if it is there.
    fn place(&mut self, word: &str) -> Parsed<Option<Place>> {
        if !self.is_word(word) {
            return Ok(None);
        }
        self.advance()?;
        let offset = self.u64()?;
        self.mark('+')?;
        let bytes = self.u64()?;
        Ok(Some(Place { offset, bytes }))
    }

    // ---- functions ----

    fn function(&mut self) -> Parsed<Function> {
        let start = self.spot.line;
        self.advance()?;
        let name = match self.token {
            Token::Text(_) => self.text("a name")?,
            _ => self.word("the function's name")?.to_owned(),
        };
        let mut body = Body::default();
        self.mark('(')?;
        self.list(')', |p| {
            let id = p.definition(&mut body)?;
            body.params.push(id);
            Ok(())
        })?;
        self.mark('{')?;
        while !self.is_word("return") {
            if self.is_word("unused") {
                self.advance()?;
                self.definition(&mut body)?;
            } else {
                body.op_lines.push(self.spot.line);
                let op = self.op(&mut body)?;
                body.ops.push(op);
            }
        }
        let results_line = self.spot.line;
        self.advance()?;
        let mut results = Vec::new();
        if matches!(self.token, Token::Value(_)) {
            results.push(self.operand(&mut body)?);
            while self.is_mark(',') {
                self.advance()?;
                results.push(self.operand(&mut body)?);
            }
        }
        self.mark('}')?;
        let (function, value_lines) = body.finish(name, results)?;
        self.lines.functions.push(FunctionLines {
            start,
            values: value_lines,
            ops: body.op_lines,
            results: results_line,
        });
        Ok(function)
    }

    /// `%3 : f32[?seq, 256] at 0+1024`.
    fn definition(&mut self, body: &mut Body) -> Parsed<ValueId> {
        let spot = self.spot;
        let Token::Value(id) = self.token else {
            return self.expected("a value (`%0`)");
        };
        self.advance()?;
        self.mark(':')?;
        let dtype = self.dtype()?;
        let mut shape = Vec::new();
        self.mark('[')?;
        self.list(']', |p| {
            shape.push(p.dim()?);
            Ok(())
        })?;
        let value = Value {
            ty: TensorType { dtype, shape },
            place: self.place("at")?,
        };
        if let Some((_, first)) = body.values.insert(id, (value, spot)) {
            let message = format!("%{id} is defined twice, first on line {}", first.line);
            return Err(ParseError::new(spot, message));
        }
        Ok(ValueId::new(id as usize))
    }

    fn dim(&mut self) -> Parsed<Dim> {
        let dim = match self.token {
            Token::Symbol("seq") => Dim::Seq,
            Token::Symbol("out") => Dim::Out,
            Token::Number(_) => return self.u32().map(Dim::Const),
            _ => return self.expected("a dimension (a number, `?seq` or `?out`)"),
        };
        self.advance()?;
        Ok(dim)
    }

    fn operand(&mut self, body: &mut Body) -> Parsed<ValueId> {
        let Token::Value(id) = self.token else {
            return self.expected("a value (`%0`)");
        };
        body.uses.push((id, self.spot));
        self.advance()?;
        Ok(ValueId::new(id as usize))
    }

    fn op(&mut self, body: &mut Body) -> Parsed<Op> {
        let mut results = Vec::new();
        if matches!(self.token, Token::Value(_)) {
            results.push(self.definition(body)?);
            while self.is_mark(',') {
                self.advance()?;
                results.push(self.definition(body)?);
            }
            self.mark('=')?;
        }
        let spot = self.spot;
        let name = self.word("an op, `unused` or `return`")?;
        let mut operands = Vec::new();
        let mut names = Vec::new();
        if self.starts_operands()? {
            loop {
                if names.is_empty() && matches!(self.token, Token::Value(_)) {
                    operands.push(self.operand(body)?);
                } else {
                    let what = if names.is_empty() {
                        "a value or an @name"
                    } else {
                        "an @name"
                    };
                    names.push(self.at_name(what)?);
                }
                if !self.is_mark(',') {
                    break;
                }
                self.advance()?;
            }
        }
        let mut attributes = Vec::new();
        if self.is_mark('{') {
            self.advance()?;
            self.list('}', |p| {
                attributes.push(p.attribute()?);
                Ok(())
            })?;
        }
        let mut arguments = Arguments {
            op: name,
            spot,
            names: names.into_iter(),
            attributes,
            weights: &self.weights,
            caches: &self.caches,
        };
        let Some(kind) = OpKind::read(name, &mut arguments) else {
            let message = format!(
                "unknown op `{}`; ops are {}",
                clip(name),
                OpKind::NAMES.join(", ")
            );
            return Err(ParseError::new(spot, message));
        };
        let kind = kind?;
        arguments.finish()?;
        Ok(Op {
            kind,
            operands,
            results,
            scratch: self.place("scratch")?,
        })
    }

    /// Whether an operand list begins here, and not the next op's results.
    fn starts_operands(&self) -> Parsed<bool> {
        Ok(match self.token {
            Token::At(_) => true,
            Token::Value(_) => self.lexer.clone().next()?.0 != Token::Mark(':'),
            _ => false,
        })
    }

    /// `eps = 1e-6`, `norm = @w`, `epilogue = geglu(64)`.
    fn attribute(&mut self) -> Parsed<Attribute<'t>> {
        let spot = self.spot;
        let name = self.word("an attribute's name")?;
        self.mark('=')?;
        let value = match self.token {
            Token::Number(digits) => {
                self.advance()?;
                RawAttr::Number(digits)
            }
            Token::At(_) => RawAttr::Name(self.at_name("an @name")?),
            Token::Word(word) => {
                self.advance()?;
                self.mark('(')?;
                let Token::Number(digits) = self.token else {
                    return self.expected("a number");
                };
                self.advance()?;
                self.mark(')')?;
                RawAttr::Call(word, digits)
            }
            _ => return self.expected("a number, an @name or `word(number)`"),
        };
        Ok(Attribute { name, spot, value })
    }
}

/// What has been read of a function.
#[derive(Default)]
struct Body {
    params: Vec<ValueId>,
    ops: Vec<Op>,
    op_lines: Vec<usize>,
    values: HashMap<u32, (Value, Spot)>,
    uses: Vec<(u32, Spot)>,
}

impl Body {
    /// The function, and the line of each of its values.
    fn finish(&mut self, name: String, results: Vec<ValueId>) -> Parsed<(Function, Vec<usize>)> {
        if let Some((id, spot)) = self
            .uses
            .iter()
            .find(|(id, _)| !self.values.contains_key(id))
        {
            let message = format!("%{id} is not defined in this function");
            return Err(ParseError::new(*spot, message));
        }
        let mut values: Vec<(u32, (Value, Spot))> = self.values.drain().collect();
        values.sort_unstable_by_key(|(id, _)| *id);
        let gap = (0..).zip(&values).find(|(want, (id, _))| want != id);
        if let Some((want, (id, (_, spot)))) = gap {
            let message = format!("%{id} leaves a gap: there is no %{want}");
            return Err(ParseError::new(*spot, message));
        }
        let (values, lines) = values
            .into_iter()
            .map(|(_, (value, spot))| (value, spot.line))
            .unzip();
        let function = Function {
            name,
            values,
            params: std::mem::take(&mut self.params),
            ops: std::mem::take(&mut self.ops),
            results,
        };
        Ok((function, lines))
    }
}

fn small(field: &str, value: Option<u64>, spot: Spot) -> Parsed<Option<u32>> {
    value
        .map(u32::try_from)
        .transpose()
        .map_err(|_| ParseError::new(spot, format!("`{field}` must be a whole number below 2^32")))
}

fn needed(field: &str, value: Option<u64>, spot: Spot) -> Parsed<u32> {
    small(field, value, spot)?
        .ok_or_else(|| ParseError::new(spot, format!("expected `{field} = ..` in these braces")))
}
