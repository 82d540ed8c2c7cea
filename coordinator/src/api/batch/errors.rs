//! Errors as clients see them: one table gives each code its status and its sentence, everything that refuses a
//! request goes through [`Error`], and every body has the form of WIRE.md §11.

use super::json::Object;
use crate::engine::Unavailable;
use crate::state::{Refusal, RefusalCode};
use lote_shared::model::Timestamp;

macro_rules! codes {
    ($($code:ident $status:literal $sentence:literal)*) => {
        /// Every error code this service sends. The text on the wire is the name.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Code { $($code,)* }

        impl Code {
            /// Every code.
            pub const ALL: &[Code] = &[$(Code::$code,)*];

            /// As on the wire.
            pub fn as_str(self) -> &'static str {
                match self { $(Code::$code => stringify!($code),)* }
            }

            /// HTTP status.
            pub fn status(self) -> u16 {
                match self { $(Code::$code => $status,)* }
            }

            /// What the message begins with.
            pub fn sentence(self) -> &'static str {
                match self { $(Code::$code => $sentence,)* }
            }
        }
    };
}

codes! {
    MissingRequiredHeader 400 "A required HTTP header was not specified."
    MissingRequiredProperty 400 "A required property was not specified in the request body."
    MissingRequiredQueryParameter 400 "A query parameter that's mandatory for this request is not specified."
    UnsupportedProperty 400 "A property in the request body is not supported."
    UnsupportedRequestVersion 400 "The api-version of the request is not supported."
    InvalidHeaderValue 400 "The value for one of the HTTP headers is not in the correct format."
    InvalidPropertyValue 400 "The value provided for one of the properties in the request body is invalid."
    InvalidQueryParameterValue 400 "Value for one of the query parameters specified in the request URI is invalid."
    OutOfRangeQueryParameterValue 400 "A query parameter specified in the request URI is outside the permissible range."
    InvalidUri 400 "The requested URI does not represent any resource on the server."
    InvalidRequestBody 400 "The specified Request Body is not syntactically valid."
    InvalidAuthenticationInfo 400 "The authentication information was not provided in the correct format."
    InvalidConstraintValue 400 "The value provided for one of the constraints is invalid."
    OutOfRangePriority 400 "The priority must be between -1000 and 1000."
    EmptyMetadataKey 400 "The name of a metadata item is empty."
    MetadataTooLarge 400 "The size of the specified metadata exceeds the maximum size permitted."
    MultipleConditionHeadersNotSupported 400 "Multiple condition headers are not supported."
    AuthenticationFailed 403 "Server failed to authenticate the request. Make sure the value of Authorization header is formed correctly including the signature."
    ResourceNotFound 404 "The specified resource does not exist."
    PoolNotFound 404 "The specified pool does not exist."
    NodeNotFound 404 "The specified node does not exist."
    JobNotFound 404 "The specified job does not exist."
    InsufficientAccountPermissions 403 "The token of a task is good for operations on the task's own job only."
    TaskNotFound 404 "The specified task does not exist."
    FileNotFound 404 "The specified file does not exist."
    UnsupportedHttpVerb 405 "The resource doesn't support the specified HTTP verb."
    PoolExists 409 "The specified pool already exists."
    JobExists 409 "The specified job already exists."
    TaskExists 409 "The specified task already exists."
    PoolBeingDeleted 409 "The specified pool is being deleted."
    PoolBeingResized 409 "The specified pool is being resized."
    OperationNotValidOnPool 409 "The specified operation is not valid on the pool in its current state."
    OperationInvalidForCurrentState 409 "The specified operation is not valid for the current state of the resource."
    OperationNotValidOnNode 409 "The specified operation is not valid on the node in its current state."
    JobBeingDeleted 409 "The specified job is being deleted."
    JobBeingTerminated 409 "The specified job is being terminated."
    JobCompleted 409 "The specified job has already completed."
    JobScheduleNotFound 404 "The specified job schedule does not exist."
    JobScheduleExists 409 "The specified job schedule already exists."
    JobScheduleBeingTerminated 409 "The specified job schedule is being terminated."
    JobScheduleBeingDeleted 409 "The specified job schedule is being deleted."
    JobScheduleCompleted 409 "The specified job schedule has already completed."
    JobScheduleWithSameIdExists 409 "A job schedule with the specified id already exists."
    JobWithSameIdExists 409 "A job with the specified id already exists."
    ApplicationNotFound 404 "The specified application does not exist."
    InvalidApplicationPackageReferences 409 "A reference to an application package cannot be satisfied."
    JobPreparationTaskNotSpecified 409 "The specified job has no job preparation task."
    TaskIdSameAsJobPreparationTask 409 "The job's preparation task has the specified task id."
    TaskIdSameAsJobReleaseTask 409 "The job's release task has the specified task id."
    TaskDependenciesNotSpecifiedOnJob 400 "The job does not use task dependencies; it has to be added with usesTaskDependencies = true."
    TaskDependencyListTooLong 400 "The ids of the tasks that a task depends on are too long together."
    TaskDependencyRangesTooLong 400 "A task depends on too many ranges of tasks."
    TaskCompleted 409 "The specified task has already completed."
    TaskNotCompleted 409 "The specified task has not completed."
    TaskSucceeded 409 "The specified task has already succeeded."
    TaskFilesUnavailable 409 "The task files are unavailable because the node where the task ran is unavailable."
    TaskFilesCleanedup 409 "The task files have been cleaned up."
    PoolQuotaReached 409 "The pool quota for the account has been reached."
    ActiveJobAndScheduleQuotaReached 409 "The active job and job schedule quota for the account has been reached."
    ConditionNotMet 412 "The condition specified in the conditional header(s) was not met for a write operation."
    RequestBodyTooLarge 413 "The request body is too large and exceeds the maximum permissible limit."
    InvalidRange 416 "The range specified is invalid for the current size of the resource."
    InternalError 500 "Server encountered an internal error. Please try again after some time."
    NotImplemented 501 "The requested operation is not implemented by this service."
    ServerBusy 503 "Server is currently unable to receive requests. Please retry your request."
}

/// A refusal on its way to the client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    pub code: Code,
    /// Differs from the code's own only for an unmet condition of a read (304).
    pub status: u16,
    /// More than the code's sentence says; may be empty.
    pub detail: String,
    pub values: Vec<(String, String)>,
}

impl Error {
    pub fn new(code: Code) -> Error {
        Error { code, status: code.status(), detail: String::new(), values: Vec::new() }
    }

    /// Adds a sentence to the message.
    #[must_use]
    pub fn because(mut self, detail: impl Into<String>) -> Error {
        self.detail = detail.into();
        self
    }

    #[must_use]
    pub fn with(mut self, key: &str, value: impl Into<String>) -> Error {
        self.values.push((key.to_owned(), value.into()));
        self
    }

    /// A member of the request body that cannot have this value.
    pub fn property(name: &str, value: &str, reason: impl Into<String>) -> Error {
        Error::of_property(Code::InvalidPropertyValue, name, value, reason)
    }

    /// As [`Error::property`] with a code of its own.
    pub fn of_property(code: Code, name: &str, value: &str, reason: impl Into<String>) -> Error {
        Error::new(code)
            .with("PropertyName", name)
            .with("PropertyValue", shortened(value))
            .with("Reason", reason)
    }

    /// A member of the request body that must be there.
    pub fn missing(name: &str) -> Error {
        Error::new(Code::MissingRequiredProperty).with("PropertyName", name)
    }

    /// A member that would change what runs and is not built: refused, never ignored.
    pub fn not_built(name: &str) -> Error {
        Error::new(Code::NotImplemented)
            .because(format!("The property `{name}` is not implemented by this service."))
            .with("PropertyName", name)
    }

    /// A query parameter that cannot have this value.
    pub fn query(code: Code, name: &str, value: &str, reason: impl Into<String>) -> Error {
        Error::new(code)
            .with("QueryParameterName", name)
            .with("QueryParameterValue", shortened(value))
            .with("Reason", reason)
    }

    /// An unmet condition of a GET or HEAD.
    pub fn not_modified() -> Error {
        Error { status: 304, ..Error::new(Code::ConditionNotMet) }
    }

    /// Seconds for `Retry-After`; only where a retry is wanted, for some clients retry whatever carries it.
    pub fn retry_after_s(&self) -> Option<u32> {
        (self.code == Code::ServerBusy).then_some(1)
    }

    /// The members of the error body, into `object`.
    pub fn write(&self, object: &mut Object, request_id: &str, now: Timestamp) {
        let mut text = self.code.sentence().to_owned();
        if !self.detail.is_empty() {
            // On a line of its own: callers compare the first.
            text.push('\n');
            text.push_str(&self.detail);
        }
        text.push_str(&format!("\nRequestId:{request_id}\nTime:{now}"));
        object.text("code", self.code.as_str());
        object.object("message", |message| {
            message.text("lang", "en-US");
            message.text("value", &text);
        });
        object.list("values", &self.values, |object, (key, value)| {
            object.text("key", key);
            object.text("value", value);
        });
    }

    /// The whole body. `base` is scheme, host and port as the client used them.
    pub fn body(&self, base: &str, request_id: &str, now: Timestamp) -> Vec<u8> {
        let fragment = "Microsoft.Azure.Batch.Protocol.Entities.Container.errors/@Element";
        super::json::object(None, |object| {
            object.text("odata.metadata", &format!("{base}/$metadata#{fragment}"));
            self.write(object, request_id, now);
        })
    }
}

/// Values in errors are for people: enough to recognise, never a megabyte.
fn shortened(value: &str) -> String {
    const SHOWN_MAX: usize = 256;
    if value.chars().count() <= SHOWN_MAX {
        return value.to_owned();
    }
    value.chars().take(SHOWN_MAX).chain("…".chars()).collect()
}

impl From<Code> for Error {
    fn from(code: Code) -> Error {
        Error::new(code)
    }
}

impl From<Unavailable> for Error {
    fn from(error: Unavailable) -> Error {
        match error {
            Unavailable::Busy | Unavailable::NoQuorum | Unavailable::NotYet { .. } => {
                Error::new(Code::ServerBusy).because(error.to_string())
            }
            Unavailable::TooLarge { .. } => Error::new(Code::RequestBodyTooLarge).because(error.to_string()),
        }
    }
}

impl From<crate::store::Error> for Error {
    fn from(error: crate::store::Error) -> Error {
        // Handled here: the client learns nothing of our disk, the log does.
        tracing::error!(%error, "reading a cold row failed");
        Error::new(Code::InternalError)
    }
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Error {
        let mut error = Error::new(refusal.code.into());
        error.detail = refusal.detail;
        error.values = refusal.values;
        error
    }
}

impl From<RefusalCode> for Code {
    fn from(code: RefusalCode) -> Code {
        match code {
            RefusalCode::AccountNotFound => Code::AuthenticationFailed,
            RefusalCode::PoolNotFound => Code::PoolNotFound,
            RefusalCode::PoolExists => Code::PoolExists,
            RefusalCode::PoolBeingDeleted => Code::PoolBeingDeleted,
            RefusalCode::PoolBeingResized => Code::PoolBeingResized,
            RefusalCode::OperationNotValidOnPool => Code::OperationNotValidOnPool,
            RefusalCode::OperationInvalidForCurrentState => Code::OperationInvalidForCurrentState,
            RefusalCode::NodeNotFound => Code::NodeNotFound,
            RefusalCode::OperationNotValidOnNode => Code::OperationNotValidOnNode,
            RefusalCode::JobNotFound => Code::JobNotFound,
            RefusalCode::JobExists => Code::JobExists,
            RefusalCode::JobBeingDeleted => Code::JobBeingDeleted,
            RefusalCode::JobBeingTerminated => Code::JobBeingTerminated,
            RefusalCode::JobCompleted => Code::JobCompleted,
            RefusalCode::TaskNotFound => Code::TaskNotFound,
            RefusalCode::TaskExists => Code::TaskExists,
            RefusalCode::TaskCompleted => Code::TaskCompleted,
            RefusalCode::TaskNotCompleted => Code::TaskNotCompleted,
            RefusalCode::TaskDependenciesNotSpecifiedOnJob => Code::TaskDependenciesNotSpecifiedOnJob,
            RefusalCode::ApplicationNotFound => Code::ApplicationNotFound,
            RefusalCode::InvalidApplicationPackageReferences => Code::InvalidApplicationPackageReferences,
            RefusalCode::TaskIdSameAsJobPreparationTask => Code::TaskIdSameAsJobPreparationTask,
            RefusalCode::TaskIdSameAsJobReleaseTask => Code::TaskIdSameAsJobReleaseTask,
            RefusalCode::JobScheduleNotFound => Code::JobScheduleNotFound,
            RefusalCode::JobScheduleExists => Code::JobScheduleExists,
            RefusalCode::JobScheduleBeingTerminated => Code::JobScheduleBeingTerminated,
            RefusalCode::JobScheduleBeingDeleted => Code::JobScheduleBeingDeleted,
            RefusalCode::JobScheduleCompleted => Code::JobScheduleCompleted,
            RefusalCode::JobScheduleWithSameIdExists => Code::JobScheduleWithSameIdExists,
            RefusalCode::JobWithSameIdExists => Code::JobWithSameIdExists,
            RefusalCode::TaskSucceeded => Code::TaskSucceeded,
            RefusalCode::InvalidPropertyValue => Code::InvalidPropertyValue,
            RefusalCode::ConditionNotMet => Code::ConditionNotMet,
            RefusalCode::PoolQuotaReached => Code::PoolQuotaReached,
            RefusalCode::ActiveJobAndScheduleQuotaReached => Code::ActiveJobAndScheduleQuotaReached,
            // These belong to blobs, hosts and members; on this interface they could only be our own mistake.
            RefusalCode::Fenced
            | RefusalCode::ContainerNotFound
            | RefusalCode::ContainerAlreadyExists
            | RefusalCode::BlobNotFound
            | RefusalCode::BlobAlreadyExists
            | RefusalCode::InvalidBlockList
            | RefusalCode::InvalidBlobOrBlock
            | RefusalCode::Membership(_)
            | RefusalCode::OtherTerm
            | RefusalCode::InternalError => Code::InternalError,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `JobSchedule` as people write it.
    fn words(name: &str) -> String {
        let spaced = name.chars().enumerate().flat_map(|(at, c)| {
            let gap = (at > 0 && c.is_ascii_uppercase()).then_some(' ');
            gap.into_iter().chain([c.to_ascii_lowercase()])
        });
        spaced.collect()
    }

    #[test]
    fn the_table_keeps_the_patterns_that_callers_compare() {
        for code in Code::ALL {
            let name = code.as_str();
            let sentence = code.sentence();
            assert!(sentence.ends_with('.'), "{name}: {sentence}");
            assert!((400..600).contains(&code.status()), "{name}");
            if let Some(thing) = name.strip_suffix("NotFound") {
                assert_eq!(code.status(), 404, "{name}");
                assert_eq!(sentence, format!("The specified {} does not exist.", words(thing)));
            }
            if let Some(thing) = name.strip_suffix("Exists").filter(|thing| !thing.contains("With")) {
                assert_eq!(code.status(), 409, "{name}");
                assert_eq!(sentence, format!("The specified {} already exists.", words(thing)));
            }
        }
    }

    #[test]
    fn bodies_have_the_form_of_the_service() {
        let error = Error::property("vmSize", "", "it is empty");
        let body = error.body("http://h:1", "1-2", Timestamp(1_000));
        let value: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(
            value,
            serde_json::json!({
                "odata.metadata":
                    "http://h:1/$metadata#Microsoft.Azure.Batch.Protocol.Entities.Container.errors/@Element",
                "code": "InvalidPropertyValue",
                "message": {
                    "lang": "en-US",
                    "value": "The value provided for one of the properties in the request body is invalid.\
                              \nRequestId:1-2\nTime:1970-01-01T00:00:01Z"
                },
                "values": [
                    {"key": "PropertyName", "value": "vmSize"},
                    {"key": "PropertyValue", "value": ""},
                    {"key": "Reason", "value": "it is empty"}
                ]
            })
        );
    }

    #[test]
    fn only_a_wanted_retry_is_announced() {
        for code in Code::ALL {
            assert_eq!(
                Error::new(*code).retry_after_s().is_some(),
                code.status() == 503,
                "{}",
                code.as_str()
            );
        }
        assert_eq!(Error::from(Unavailable::NoQuorum).code, Code::ServerBusy);
        assert_eq!(Error::from(Unavailable::TooLarge { size: 2, limit: 1 }).status, 413);
        assert_eq!(Error::not_modified().status, 304);
    }
}
