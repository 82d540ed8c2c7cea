//! Errors of the interface: status, code and sentence from one table.

use super::named::Unnamed;
use crate::api::auth::blob::Denied;
use crate::data::replicas;
use crate::engine::Unavailable;
use crate::state::{Refusal, RefusalCode};
use actix_web::http::StatusCode;
use lote_shared::chunks;

/// An answer other than success.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    pub code: Code,
    /// More than the code's own sentence; may be empty.
    pub detail: String,
    /// Headers of this answer beside the common ones.
    pub headers: Vec<(&'static str, String)>,
}

macro_rules! codes {
    ($($code:ident $status:literal $sentence:literal,)*) => {
        /// Codes as clients know them.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Code { $($code,)* }

        impl Code {
            pub fn name(self) -> &'static str {
                match self { $(Code::$code => stringify!($code),)* }
            }

            pub fn sentence(self) -> &'static str {
                match self { $(Code::$code => $sentence,)* }
            }

            pub fn status(self) -> StatusCode {
                let number = match self { $(Code::$code => $status,)* };
                StatusCode::from_u16(number).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
            }
        }
    };
}

codes! {
    AppendPositionConditionNotMet 412 "The append position condition specified was not met.",
    AuthenticationFailed 403 "Server failed to authenticate the request. Make sure the value of the Authorization header or the signature is formed correctly.",
    AuthorizationPermissionMismatch 403 "This request is not authorized to perform this operation using this permission.",
    AuthorizationProtocolMismatch 403 "This request is not authorized to perform this operation using this protocol.",
    AuthorizationResourceTypeMismatch 403 "This request is not authorized to perform this operation using this resource type.",
    AuthorizationServiceMismatch 403 "This request is not authorized to perform this operation using this service.",
    AuthorizationSourceIPMismatch 403 "This request is not authorized to perform this operation using this source IP.",
    BlobAlreadyExists 409 "The specified blob already exists.",
    BlobNotFound 404 "The specified blob does not exist.",
    BlockCountExceedsLimit 409 "The committed block count cannot exceed the maximum limit of 50,000 blocks.",
    BlockListTooLong 400 "The block list may not contain more than 50,000 blocks.",
    CannotVerifyCopySource 404 "Could not verify the copy source.",
    ConditionNotMet 412 "The condition specified using HTTP conditional header(s) is not met.",
    NotModified 304 "The resource was not changed.",
    ContainerAlreadyExists 409 "The specified container already exists.",
    ContainerNotFound 404 "The specified container does not exist.",
    Crc64Mismatch 400 "The CRC64 value specified in the request did not match with the CRC64 value calculated by the server.",
    InternalError 500 "The server encountered an internal error. Please retry the request.",
    InvalidBlobOrBlock 400 "The specified blob or block content is invalid.",
    InvalidBlockList 400 "The specified block list is invalid.",
    InvalidBlobType 409 "The blob type is invalid for this operation.",
    InvalidHeaderValue 400 "The value provided for one of the HTTP headers was not in the correct format.",
    InvalidInput 400 "One of the request inputs is not valid.",
    InvalidMd5 400 "The MD5 value specified in the request is invalid. MD5 value must be 128 bits and base64 encoded.",
    InvalidMetadata 400 "The metadata specified is invalid. It has characters that are not permitted.",
    InvalidQueryParameterValue 400 "Value for one of the query parameters specified in the request URI is invalid.",
    InvalidRange 416 "The range specified is invalid for the current size of the resource.",
    InvalidResourceName 400 "The specified resource name contains invalid characters.",
    InvalidUri 400 "The requested URI does not represent any resource on the server.",
    InvalidXmlDocument 400 "XML specified is not syntactically valid.",
    LeaseNotPresentWithBlobOperation 412 "There is currently no lease on the blob.",
    LeaseNotPresentWithContainerOperation 412 "There is currently no lease on the container.",
    MaxBlobSizeConditionNotMet 412 "The max blob size condition specified was not met.",
    Md5Mismatch 400 "The MD5 value specified in the request did not match with the MD5 value calculated by the server.",
    MetadataTooLarge 400 "The size of the specified metadata exceeds the maximum size permitted.",
    MissingRequiredHeader 400 "An HTTP header that's mandatory for this request is not specified.",
    NoAuthenticationInformation 401 "Server failed to authenticate the request. Please refer to the information in the www-authenticate header.",
    NoPendingCopyOperation 409 "There is currently no pending copy operation.",
    NotImplemented 501 "The requested operation is not implemented on the specified resource.",
    OutOfRangeInput 400 "One of the request inputs is out of range.",
    OutOfRangeQueryParameterValue 400 "One of the query parameters specified in the request URI is outside the permissible range.",
    PublicAccessNotPermitted 409 "Public access is not permitted on this storage account.",
    RequestBodyTooLarge 413 "The request body is too large and exceeds the maximum permissible limit.",
    IncompleteBody 400 "The request body ended before its announced length.",
    ResourceNotFound 404 "The specified resource does not exist.",
    ServerBusy 503 "The server is busy.",
    SourceConditionNotMet 412 "The source condition specified using HTTP conditional header(s) is not met.",
    TargetConditionNotMet 412 "The target condition specified using HTTP conditional header(s) is not met.",
    UnsupportedHttpVerb 405 "The resource doesn't support the specified HTTP verb.",
}

impl Error {
    pub fn new(code: Code) -> Error {
        Error { code, detail: String::new(), headers: Vec::new() }
    }

    #[must_use]
    pub fn because(mut self, detail: impl Into<String>) -> Error {
        self.detail = detail.into();
        self
    }

    #[must_use]
    pub fn with_header(mut self, name: &'static str, value: impl Into<String>) -> Error {
        self.headers.push((name, value.into()));
        self
    }

    pub fn not_implemented(what: &str) -> Error {
        Error::new(Code::NotImplemented).because(format!("{what} is not implemented by this server."))
    }
}

impl From<Code> for Error {
    fn from(code: Code) -> Error {
        Error::new(code)
    }
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Error {
        Error::from(refusal.code).because(refusal.detail)
    }
}

impl From<RefusalCode> for Error {
    fn from(code: RefusalCode) -> Error {
        Error::new(match code {
            RefusalCode::ContainerNotFound => Code::ContainerNotFound,
            RefusalCode::ContainerAlreadyExists => Code::ContainerAlreadyExists,
            RefusalCode::BlobNotFound => Code::BlobNotFound,
            RefusalCode::BlobAlreadyExists => Code::BlobAlreadyExists,
            RefusalCode::InvalidBlockList => Code::InvalidBlockList,
            RefusalCode::InvalidBlobOrBlock => Code::InvalidBlobOrBlock,
            RefusalCode::ConditionNotMet => Code::ConditionNotMet,
            RefusalCode::AccountNotFound => Code::ResourceNotFound,
            // The block list changed under every attempt to commit it.
            RefusalCode::Fenced => Code::ServerBusy,
            _ => Code::InternalError,
        })
    }
}

impl From<Unavailable> for Error {
    fn from(unavailable: Unavailable) -> Error {
        match unavailable {
            Unavailable::TooLarge { .. } => Code::RequestBodyTooLarge.into(),
            Unavailable::NotYet { .. } => Error::new(Code::NotImplemented).because(unavailable.to_string()),
            Unavailable::Busy | Unavailable::NoQuorum => Code::ServerBusy.into(),
        }
    }
}

impl From<Unnamed> for Error {
    fn from(unnamed: Unnamed) -> Error {
        match unnamed {
            Unnamed::NotText => Error::new(Code::InvalidUri).because("The path is not UTF-8."),
            Unnamed::NoAccount(_) => Error::new(Code::AuthenticationFailed).because(unnamed.to_string()),
            Unnamed::Unavailable(unavailable) => unavailable.into(),
        }
    }
}

impl From<Denied> for Error {
    fn from(denied: Denied) -> Error {
        let detail = denied.to_string();
        match denied {
            Denied::Failed(_) => Error::new(Code::AuthenticationFailed).because(detail),
            Denied::Missing => Error::new(Code::NoAuthenticationInformation)
                .because(detail)
                .with_header("www-authenticate", "SharedKey"),
            Denied::Permission => Code::AuthorizationPermissionMismatch.into(),
            Denied::ResourceType => Code::AuthorizationResourceTypeMismatch.into(),
            Denied::Service => Code::AuthorizationServiceMismatch.into(),
            Denied::Protocol => Code::AuthorizationProtocolMismatch.into(),
            Denied::SourceAddress => Code::AuthorizationSourceIPMismatch.into(),
        }
    }
}

impl From<replicas::Error> for Error {
    fn from(error: replicas::Error) -> Error {
        Error::new(Code::ServerBusy).because(error.to_string())
    }
}

impl From<chunks::Error> for Error {
    fn from(error: chunks::Error) -> Error {
        tracing::error!(%error, "the chunk store refused a request");
        Code::InternalError.into()
    }
}
