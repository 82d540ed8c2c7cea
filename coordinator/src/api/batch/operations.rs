//! Which operation a request means. The table of all of them is `operations.txt`; what is in it and not in
//! [`Operation`] is routed too and answers 501 by name, so nothing is forgotten and nothing looks like a typing error.

use crate::api::auth::percent_decode;
use std::sync::OnceLock;

const TABLE: &str = include_str!("operations.txt");

macro_rules! operations {
    ($($operation:ident $name:literal)*) => {
        /// What is built.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Operation { $($operation,)* }

        impl Operation {
            pub const ALL: &[Operation] = &[$(Operation::$operation,)*];

            /// As in the table.
            pub fn name(self) -> &'static str {
                match self { $(Operation::$operation => $name,)* }
            }
        }
    };
}

operations! {
    ApplicationList "Application_List"
    ApplicationGet "Application_Get"
    PoolAdd "Pool_Add"
    PoolList "Pool_List"
    PoolDelete "Pool_Delete"
    PoolExists "Pool_Exists"
    PoolGet "Pool_Get"
    PoolPatch "Pool_Patch"
    PoolResize "Pool_Resize"
    PoolStopResize "Pool_StopResize"
    PoolUpdateProperties "Pool_UpdateProperties"
    SupportedImages "Account_ListSupportedImages"
    NodeCounts "Account_ListPoolNodeCounts"
    NodeGet "ComputeNode_Get"
    NodeList "ComputeNode_List"
    NodeFileDelete "File_DeleteFromComputeNode"
    NodeFileGet "File_GetFromComputeNode"
    NodeFileProperties "File_GetPropertiesFromComputeNode"
    NodeFileList "File_ListFromComputeNode"
    JobAdd "Job_Add"
    JobList "Job_List"
    JobDelete "Job_Delete"
    JobGet "Job_Get"
    JobPatch "Job_Patch"
    JobPut "Job_Update"
    JobDisable "Job_Disable"
    JobEnable "Job_Enable"
    JobTerminate "Job_Terminate"
    JobTaskCounts "Job_GetTaskCounts"
    JobPreparationStatus "Job_ListPreparationAndReleaseTaskStatus"
    ScheduleAdd "JobSchedule_Add"
    ScheduleList "JobSchedule_List"
    ScheduleGet "JobSchedule_Get"
    ScheduleExists "JobSchedule_Exists"
    SchedulePatch "JobSchedule_Patch"
    SchedulePut "JobSchedule_Update"
    ScheduleDisable "JobSchedule_Disable"
    ScheduleEnable "JobSchedule_Enable"
    ScheduleTerminate "JobSchedule_Terminate"
    ScheduleDelete "JobSchedule_Delete"
    ScheduleJobs "Job_ListFromJobSchedule"
    TaskAdd "Task_Add"
    TaskList "Task_List"
    TaskAddCollection "Task_AddCollection"
    TaskDelete "Task_Delete"
    TaskGet "Task_Get"
    TaskPut "Task_Update"
    TaskSubtasks "Task_ListSubtasks"
    TaskTerminate "Task_Terminate"
    TaskReactivate "Task_Reactivate"
    TaskFileDelete "File_DeleteFromTask"
    TaskFileGet "File_GetFromTask"
    TaskFileProperties "File_GetPropertiesFromTask"
    TaskFileList "File_ListFromTask"
}

/// A row of the table.
#[derive(Debug)]
pub struct Route {
    method: &'static str,
    segments: Vec<Segment>,
    /// Name in the table.
    pub name: &'static str,
    /// Status of success.
    pub success: u16,
    /// `None`: known and not built.
    pub operation: Option<Operation>,
}

#[derive(Debug, PartialEq, Eq)]
enum Segment {
    Fixed(&'static str),
    Parameter,
    /// A fixed beginning and parameters in parentheses, as certificates have them.
    Parenthesised(&'static str),
    /// The path of a file: the rest, slashes encoded or not.
    Rest,
}

/// What a request line means.
#[derive(Debug)]
pub enum Match {
    /// The row, and the parameters, decoded.
    Found(&'static Route, Vec<String>),
    /// There is something at this path, but not for this method.
    WrongMethod,
    Nothing,
}

fn routes() -> &'static [Route] {
    static ROUTES: OnceLock<Vec<Route>> = OnceLock::new();
    ROUTES.get_or_init(|| TABLE.lines().filter(|line| !line.starts_with('#')).filter_map(read).collect())
}

fn read(line: &'static str) -> Option<Route> {
    let mut parts = line.split(' ');
    let (method, path, name) = (parts.next()?, parts.next()?, parts.next()?);
    let success = parts.next()?.parse().ok()?;
    let segments = path.trim_start_matches('/').split('/').map(|segment| match segment {
        "{filePath}" => Segment::Rest,
        segment if segment.starts_with('{') => Segment::Parameter,
        segment => match segment.split_once('(') {
            Some((fixed, _)) => Segment::Parenthesised(fixed),
            None => Segment::Fixed(segment),
        },
    });
    let operation = Operation::ALL.iter().find(|operation| operation.name() == name).copied();
    Some(Route { method, segments: segments.collect(), name, success, operation })
}

/// Finds the row for a method and a raw path. Parameters are decoded after the path was cut at its slashes.
pub fn find(method: &str, raw_path: &str) -> Match {
    let Some(path) = raw_path.strip_prefix('/') else { return Match::Nothing };
    let given: Vec<&str> = path.split('/').collect();
    let mut somewhere = false;
    for route in routes() {
        let Some(parameters) = parameters(&route.segments, &given) else { continue };
        if route.method == method {
            return Match::Found(route, parameters);
        }
        somewhere = true;
    }
    if somewhere { Match::WrongMethod } else { Match::Nothing }
}

fn parameters(segments: &[Segment], given: &[&str]) -> Option<Vec<String>> {
    let rest = segments.last() == Some(&Segment::Rest);
    if given.len() < segments.len() || (given.len() > segments.len() && !rest) {
        return None;
    }
    let mut parameters = Vec::new();
    for (index, segment) in segments.iter().enumerate() {
        let text = given.get(index)?;
        match segment {
            Segment::Fixed(fixed) if text.eq_ignore_ascii_case(fixed) => {}
            Segment::Parameter if !text.is_empty() => parameters.push(percent_decode(text, false)),
            Segment::Parenthesised(fixed) => {
                let (name, _) = text.split_once('(')?;
                if !name.eq_ignore_ascii_case(fixed) || !text.ends_with(')') {
                    return None;
                }
            }
            Segment::Rest => {
                let rest = given.get(index..)?.join("/");
                if rest.is_empty() {
                    return None;
                }
                parameters.push(percent_decode(&rest, false));
            }
            _ => return None,
        }
    }
    Some(parameters)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn found(method: &str, path: &str) -> (&'static str, Vec<String>) {
        match find(method, path) {
            Match::Found(route, parameters) => (route.name, parameters),
            other => panic!("{method} {path}: {other:?}"),
        }
    }

    #[test]
    fn everything_built_is_in_the_table_and_the_rest_is_listed_here() {
        let table: BTreeSet<&str> = routes().iter().map(|route| route.name).collect();
        assert_eq!(routes().len(), 80);
        assert_eq!(table.len(), 80);
        let built: BTreeSet<&str> = Operation::ALL.iter().map(|operation| operation.name()).collect();
        assert!(built.is_subset(&table));
        let unbuilt: Vec<&str> =
            routes().iter().filter(|route| route.operation.is_none()).map(|route| route.name).collect();
        assert_eq!(
            unbuilt,
            [
                "Pool_ListUsageMetrics",
                "Pool_DisableAutoScale",
                "Pool_EnableAutoScale",
                "Pool_EvaluateAutoScale",
                "Pool_RemoveNodes",
                "Certificate_Add",
                "Certificate_List",
                "Certificate_CancelDeletion",
                "Certificate_Delete",
                "Certificate_Get",
                "ComputeNode_AddUser",
                "ComputeNode_DeleteUser",
                "ComputeNode_UpdateUser",
                "ComputeNode_Reboot",
                "ComputeNode_Reimage",
                "ComputeNode_DisableScheduling",
                "ComputeNode_EnableScheduling",
                "ComputeNode_GetRemoteLoginSettings",
                "ComputeNode_GetRemoteDesktop",
                "ComputeNode_UploadBatchServiceLogs",
                "ComputeNode_Start",
                "ComputeNode_Deallocate",
                "ComputeNodeExtension_Get",
                "ComputeNodeExtension_List",
                "Pool_GetAllLifetimeStatistics",
                "Job_GetAllLifetimeStatistics",
            ]
        );
        assert_eq!(built.len() + unbuilt.len(), 80);
    }

    #[test]
    fn every_row_finds_itself() {
        for line in TABLE.lines().filter(|line| !line.starts_with('#')) {
            let mut parts = line.split(' ');
            let (method, path, name) = (parts.next().unwrap(), parts.next().unwrap(), parts.next().unwrap());
            let path: String = path.replace('{', "x").replace('}', "");
            assert_eq!(found(method, &path).0, name, "{line}");
        }
    }

    #[test]
    fn parameters_are_decoded_after_cutting() {
        assert_eq!(found("GET", "/jobs/j%2D1/tasks/t"), ("Task_Get", vec!["j-1".into(), "t".into()]));
        let file =
            ("File_GetFromTask", vec!["j".to_owned(), "t".to_owned(), "wd/out dir/a+b.txt".to_owned()]);
        assert_eq!(found("GET", "/jobs/j/tasks/t/files/wd%2Fout%20dir%2Fa%2Bb.txt"), file);
        assert_eq!(found("GET", "/jobs/j/tasks/t/files/wd/out%20dir/a+b.txt"), file);
        assert_eq!(found("GET", "/jobs/j/tasks/t/files").0, "File_ListFromTask");
        assert_eq!(found("GET", "/jobs/s:job-1"), ("Job_Get", vec!["s:job-1".into()]));
        assert_eq!(
            found("GET", "/certificates(thumbprintAlgorithm=sha1,thumbprint=ab)").0,
            "Certificate_Get"
        );
    }

    #[test]
    fn what_is_not_there() {
        assert!(matches!(find("PUT", "/pools"), Match::WrongMethod));
        assert!(matches!(find("TRACE", "/jobs/j"), Match::WrongMethod));
        for path in [
            "",
            "/",
            "jobs",
            "//jobs",
            "/jobs/",
            "/nothing",
            "/jobs/j/tasks/t/what",
            "/jobs//tasks",
            "/jobs/j/tasks/t/files/",
            "/certificates(x",
        ] {
            assert!(matches!(find("GET", path), Match::Nothing), "{path}");
        }
    }
}
