//! What an initiator and a participant agree on: the name of an action, its mode and the type of its request.

use std::marker::PhantomData;

use bytes::Bytes;

/// What a branch asks for, as bytes on the wire: any prost message, or [`Json`] around any serde type.
pub trait Request: Sized + Send + Sync + 'static {
    /// The request as bytes.
    ///
    /// # Errors
    /// When the value has no form in its format, which prost messages always have.
    fn to_bytes(&self) -> Result<Bytes, FormatError>;

    /// The request in these bytes.
    ///
    /// # Errors
    /// When the bytes are not of this type: the two sides disagree, and no retry will help.
    fn from_bytes(bytes: &[u8]) -> Result<Self, FormatError>;
}

/// A request that can not be written or read in its format.
#[derive(Debug, thiserror::Error)]
#[error("the request does not fit its type: {0}")]
pub struct FormatError(String);

impl<T: prost::Message + Default + 'static> Request for T {
    fn to_bytes(&self) -> Result<Bytes, FormatError> {
        Ok(self.encode_to_vec().into())
    }

    fn from_bytes(bytes: &[u8]) -> Result<Self, FormatError> {
        Self::decode(bytes).map_err(|error| FormatError(error.to_string()))
    }
}

/// A request in JSON, for services that have no `.proto` files.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Json<T>(pub T);

impl<T> Request for Json<T>
where
    T: serde::Serialize + serde::de::DeserializeOwned + Send + Sync + 'static,
{
    fn to_bytes(&self) -> Result<Bytes, FormatError> {
        serde_json::to_vec(&self.0).map(Bytes::from).map_err(|error| FormatError(error.to_string()))
    }

    fn from_bytes(bytes: &[u8]) -> Result<Self, FormatError> {
        serde_json::from_slice(bytes).map(Json).map_err(|error| FormatError(error.to_string()))
    }
}

/// Marks actions with try, confirm and cancel.
#[derive(Clone, Copy, Debug)]
pub enum Tcc {}

/// Marks actions with try and cancel: do it, and compensate.
#[derive(Clone, Copy, Debug)]
pub enum Saga {}

/// Marks actions that only receive: delivered once the transaction is decided.
#[derive(Clone, Copy, Debug)]
pub enum Message {}

/// Marks the sender of a message, which is asked whether its local transaction committed.
#[derive(Clone, Copy, Debug)]
pub enum Sender {}

/// One action of one service. A constant, shared by those who call it and the service that implements it, so that a
/// branch of the wrong mode, or a request of the wrong type, does not compile.
#[derive(Debug)]
pub struct Action<Mode, R> {
    service: &'static str,
    name: &'static str,
    types: PhantomData<fn() -> (Mode, R)>,
}

impl<Mode, R> Clone for Action<Mode, R> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<Mode, R> Copy for Action<Mode, R> {}

impl<Mode, R> Action<Mode, R> {
    const fn new(service: &'static str, name: &'static str) -> Self {
        Self { service, name, types: PhantomData }
    }

    /// The service that implements it.
    pub const fn service(&self) -> &'static str {
        self.service
    }

    /// Its name within the service.
    pub const fn name(&self) -> &'static str {
        self.name
    }
}

impl<R> Action<Tcc, R> {
    /// An action with try, confirm and cancel. Names are 1 to 64 of `[a-z0-9_.-]`.
    pub const fn tcc(service: &'static str, name: &'static str) -> Self {
        Self::new(service, name)
    }
}

impl<R> Action<Saga, R> {
    /// An action with try and cancel.
    pub const fn saga(service: &'static str, name: &'static str) -> Self {
        Self::new(service, name)
    }
}

impl<R> Action<Message, R> {
    /// An action that receives messages.
    pub const fn message(service: &'static str, name: &'static str) -> Self {
        Self::new(service, name)
    }
}

impl<R> Action<Sender, R> {
    /// The sender's side of a message.
    pub const fn sender(service: &'static str, name: &'static str) -> Self {
        Self::new(service, name)
    }
}
