//! A JSON object in the making. What is not known is not written, so a field of `None` adds nothing; text is borrowed from the event,
//! of which thousands a second are exported.

use std::borrow::Cow;

use serde::{Serialize, Serializer, ser::SerializeMap as _};

/// A JSON value.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Node<'a> {
    Bool(bool),
    Int(i64),
    /// What may be more than an `i64` holds.
    Count(u64),
    Text(Cow<'a, str>),
    List(Vec<Self>),
    Object(Object<'a>),
}

/// A JSON object whose fields stay in the order in which they were added.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Object<'a> {
    fields: Vec<(Cow<'a, str>, Node<'a>)>,
}

/// What can be the value of a field; `None` if there is nothing to say.
pub(crate) trait IntoNode<'a> {
    fn into_node(self) -> Option<Node<'a>>;
}

impl<'a> Object<'a> {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// With room for so many fields: the larger ones are made of thousands of events a second.
    pub(crate) fn with_room(fields: usize) -> Self {
        Self { fields: Vec::with_capacity(fields) }
    }

    /// Adds a field, or nothing.
    pub(crate) fn with(mut self, name: impl Into<Cow<'a, str>>, value: impl IntoNode<'a>) -> Self {
        self.add(name, value);
        self
    }

    /// Likewise.
    pub(crate) fn add(&mut self, name: impl Into<Cow<'a, str>>, value: impl IntoNode<'a>) {
        if let Some(value) = value.into_node() {
            self.fields.push((name.into(), value));
        }
    }

    /// The value of a field, in place of the one that it has.
    pub(crate) fn set(&mut self, name: &'static str, value: impl IntoNode<'a>) {
        match (self.get_mut(name), value.into_node()) {
            (Some(old), Some(value)) => *old = value,
            (None, Some(value)) => self.fields.push((name.into(), value)),
            (_, None) => drop(self.take(name)),
        }
    }

    pub(crate) fn get(&self, name: &str) -> Option<&Node<'a>> {
        self.fields.iter().find(|(field, _)| field == name).map(|(_, value)| value)
    }

    pub(crate) fn get_mut(&mut self, name: &str) -> Option<&mut Node<'a>> {
        self.fields.iter_mut().find(|(field, _)| field == name).map(|(_, value)| value)
    }

    /// Takes a field out.
    pub(crate) fn take(&mut self, name: &str) -> Option<Node<'a>> {
        let at = self.fields.iter().position(|(field, _)| field == name)?;
        Some(self.fields.remove(at).1)
    }

    /// The object of this name, which is made if it is not there. What else has the name gives way.
    pub(crate) fn object(&mut self, name: &'static str) -> &mut Self {
        if !matches!(self.get(name), Some(Node::Object(_))) {
            drop(self.take(name));
            self.fields.push((name.into(), Node::Object(Self::new())));
        }
        match self.get_mut(name) {
            Some(Node::Object(object)) => object,
            _ => unreachable!("it was just put there"),
        }
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.fields.iter().map(|(name, _)| name.as_ref())
    }

    pub(crate) fn values_mut(&mut self) -> impl Iterator<Item = (&str, &mut Node<'a>)> {
        self.fields.iter_mut().map(|(name, value)| (&**name, value))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.fields.is_empty()
    }
}

impl<'a> Node<'a> {
    pub(crate) fn as_int(&self) -> Option<i64> {
        match self {
            Self::Int(int) => Some(*int),
            _ => None,
        }
    }

    /// The object itself, or those of a list.
    pub(crate) fn objects_mut(&mut self) -> impl Iterator<Item = &mut Object<'a>> {
        let all = match self {
            Self::List(list) => list.as_mut_slice(),
            other => std::slice::from_mut(other),
        };
        all.iter_mut().filter_map(|node| match node {
            Self::Object(object) => Some(object),
            _ => None,
        })
    }
}

impl Serialize for Node<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Bool(bool) => serializer.serialize_bool(*bool),
            Self::Int(int) => serializer.serialize_i64(*int),
            Self::Count(count) => serializer.serialize_u64(*count),
            Self::Text(text) => serializer.serialize_str(text),
            Self::List(list) => serializer.collect_seq(list),
            Self::Object(object) => object.serialize(serializer),
        }
    }
}

impl Serialize for Object<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.fields.len()))?;
        for (name, value) in &self.fields {
            map.serialize_entry(name, value)?;
        }
        map.end()
    }
}

impl<'a> IntoNode<'a> for Node<'a> {
    fn into_node(self) -> Option<Self> {
        Some(self)
    }
}

impl<'a, T: IntoNode<'a>> IntoNode<'a> for Option<T> {
    fn into_node(self) -> Option<Node<'a>> {
        self.and_then(T::into_node)
    }
}

impl<'a> IntoNode<'a> for Object<'a> {
    fn into_node(self) -> Option<Node<'a>> {
        (!self.is_empty()).then_some(Node::Object(self))
    }
}

impl<'a, T: IntoNode<'a>> IntoNode<'a> for Vec<T> {
    fn into_node(self) -> Option<Node<'a>> {
        let list: Vec<_> = self.into_iter().filter_map(T::into_node).collect();
        (!list.is_empty()).then_some(Node::List(list))
    }
}

impl<'a> IntoNode<'a> for &'a str {
    fn into_node(self) -> Option<Node<'a>> {
        Some(Node::Text(self.into()))
    }
}

impl<'a> IntoNode<'a> for String {
    fn into_node(self) -> Option<Node<'a>> {
        Some(Node::Text(self.into()))
    }
}

impl<'a> IntoNode<'a> for Cow<'a, str> {
    fn into_node(self) -> Option<Node<'a>> {
        Some(Node::Text(self))
    }
}

impl<'a> IntoNode<'a> for bool {
    fn into_node(self) -> Option<Node<'a>> {
        Some(Node::Bool(self))
    }
}

impl<'a> IntoNode<'a> for u64 {
    fn into_node(self) -> Option<Node<'a>> {
        Some(Node::Count(self))
    }
}

/// Of numbers that an `i64` holds.
macro_rules! int_into_node {
    ($($int:ty),*) => {$(
        impl<'a> IntoNode<'a> for $int {
            fn into_node(self) -> Option<Node<'a>> {
                Some(Node::Int(self.into()))
            }
        }
    )*};
}

int_into_node!(u8, u16, u32, i32, i64);
