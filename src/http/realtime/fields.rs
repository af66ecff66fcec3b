//! Reads the fields of a JSON object. Each error names the path of its field.

use std::ops::RangeInclusive;

use serde_json::{Map, Value};

use super::error::{EventError, quoted};

/// A field that may be absent, cleared or given.
#[derive(Clone, Debug, PartialEq)]
pub enum Field<T> {
    /// It is not there: the value stays.
    Absent,
    /// It is `null`: the value is cleared.
    Null,
    /// It has a value.
    Given(T),
}

impl<T> Field<T> {
    /// Changes an optional value.
    pub fn set(self, place: &mut Option<T>) {
        match self {
            Self::Absent => {}
            Self::Null => *place = None,
            Self::Given(value) => *place = Some(value),
        }
    }

    /// Changes a value that has a default.
    pub fn set_or(self, place: &mut T, default: T) {
        match self {
            Self::Absent => {}
            Self::Null => *place = default,
            Self::Given(value) => *place = value,
        }
    }

    /// The given value, or the one so far.
    pub fn or(self, so_far: T, default: T) -> T {
        let mut value = so_far;
        self.set_or(&mut value, default);
        value
    }
}

/// An object and its path within the event.
#[derive(Clone, Debug)]
pub struct Fields<'a> {
    object: &'a Map<String, Value>,
    path: String,
}

impl<'a> Fields<'a> {
    /// The fields of an object at this path.
    ///
    /// # Errors
    /// It is no object.
    pub fn of(value: &'a Value, path: impl Into<String>) -> Result<Self, EventError> {
        let path = path.into();
        match value {
            Value::Object(object) => Ok(Self { object, path }),
            _ => Err(wrong_type(path, "an object")),
        }
    }

    /// The path of a field.
    pub fn path(&self, name: &str) -> String {
        if self.path.is_empty() {
            name.to_owned()
        } else {
            format!("{}.{name}", self.path)
        }
    }

    /// Reads a field.
    pub fn read<T>(
        &self,
        name: &str,
        read: impl FnOnce(&'a Value, String) -> Result<T, EventError>,
    ) -> Result<Field<T>, EventError> {
        match self.object.get(name) {
            None => Ok(Field::Absent),
            Some(Value::Null) => Ok(Field::Null),
            Some(value) => read(value, self.path(name)).map(Field::Given),
        }
    }

    /// An object.
    pub fn object(&self, name: &str) -> Result<Field<Self>, EventError> {
        self.read(name, Self::of)
    }

    /// Text of at most `longest` bytes.
    pub fn text(&self, name: &str, longest: usize) -> Result<Field<&'a str>, EventError> {
        self.read(name, |value, path| text(value, path, longest))
    }

    /// A list of at most `most` texts of at most `longest` bytes each.
    pub fn texts(
        &self,
        name: &str,
        most: usize,
        longest: usize,
    ) -> Result<Field<Vec<&'a str>>, EventError> {
        self.read(name, |value, path| {
            let Value::Array(values) = value else {
                return Err(wrong_type(path, "a list of texts"));
            };
            if values.len() > most {
                let message = format!("{path} has {} values; the limit is {most}", values.len());
                return Err(EventError::invalid(path, message));
            }
            let texts = values.iter().enumerate();
            texts
                .map(|(index, value)| text(value, format!("{path}[{index}]"), longest))
                .collect()
        })
    }

    /// One of these names.
    pub fn choice(
        &self,
        name: &str,
        known: &[&'static str],
    ) -> Result<Field<&'static str>, EventError> {
        self.read(name, |value, path| {
            let given = text(value, path.clone(), usize::MAX)?;
            let found = known.iter().find(|known| **known == given);
            found.copied().ok_or_else(|| {
                let message = format!(
                    "{path} is {}; expected one of {}",
                    quoted(given),
                    known.join(", ")
                );
                EventError::invalid(path, message)
            })
        })
    }

    /// A whole number of this range.
    pub fn integer(
        &self,
        name: &str,
        range: RangeInclusive<u64>,
    ) -> Result<Field<u64>, EventError> {
        self.read(name, |value, path| {
            // Some clients write 500.0.
            let whole = value.as_f64().filter(|number| number.fract() == 0.0);
            let number = whole.ok_or_else(|| wrong_type(path.clone(), "a whole number"))?;
            let number = (number >= 0.0).then_some(number as u64);
            number
                .filter(|number| range.contains(number))
                .ok_or_else(|| {
                    let (least, most) = range.into_inner();
                    let message = format!("{path} is {value}; expected {least} to {most}");
                    EventError::invalid(path, message)
                })
        })
    }

    /// A number of this range.
    pub fn number(&self, name: &str, range: RangeInclusive<f64>) -> Result<Field<f64>, EventError> {
        self.read(name, |value, path| {
            let number = value.as_f64();
            let number = number.ok_or_else(|| wrong_type(path.clone(), "a number"))?;
            if range.contains(&number) {
                return Ok(number);
            }
            let (least, most) = range.into_inner();
            let message = format!("{path} is {number}; expected {least} to {most}");
            Err(EventError::invalid(path, message))
        })
    }
}

fn text(value: &Value, path: String, longest: usize) -> Result<&str, EventError> {
    let Some(text) = value.as_str() else {
        return Err(wrong_type(path, "a text"));
    };
    if text.len() > longest {
        let message = format!("{path} has {} bytes; the limit is {longest}", text.len());
        return Err(EventError::invalid(path, message));
    }
    Ok(text)
}

fn wrong_type(path: String, expected: &str) -> EventError {
    let message = format!("{path} is not {expected}");
    EventError::new("invalid_type", message).at(path)
}
