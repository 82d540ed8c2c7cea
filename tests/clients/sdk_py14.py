"""azure-batch 14.x: msrest models, operation groups, options objects."""

from __future__ import annotations

from azure.batch import BatchServiceClient, models
from azure.batch.batch_auth import SharedKeyCredentials
from azure.batch.custom.custom_errors import CreateTasksErrorException

from sdk import UBUNTU, FileProperties, Output, Refusal, Sdk


def _options(kind: str, **members):
    """An options object of the call, or None if there is nothing to say."""
    members = {name: value for name, value in members.items() if value is not None}
    return getattr(models, kind)(**members) if members else None


def _pages(paged) -> list[list]:
    pages = []
    while True:
        try:
            pages.append(list(paged.advance_page()))
        except StopIteration:
            return pages


class Py14(Sdk):
    name = "py14"
    models = models
    errors = (models.BatchErrorException, CreateTasksErrorException)

    def __init__(self, endpoints, key: str | None = None):
        credentials = SharedKeyCredentials(endpoints.batch_account, key or endpoints.batch_key)
        self.client = BatchServiceClient(credentials, batch_url=endpoints.batch_url)

    def refusal(self, error):
        if isinstance(error, CreateTasksErrorException):
            assert error.errors, f"no whole request was refused: {error}"
            error = error.errors[0]
        body = error.error
        code = getattr(body, "code", None)
        message = getattr(getattr(body, "message", None), "value", None)
        values = {item.key: item.value for item in getattr(body, "values", None) or []}
        return Refusal(error.response.status_code, code, message, values)

    # -- members that have another name in the other generation ---------------------------------------------------

    @staticmethod
    def etag(resource):
        return resource.e_tag

    @staticmethod
    def on_all_tasks_complete(job):
        return job.on_all_tasks_complete

    @staticmethod
    def terminate_reason(job):
        return job.execution_info.terminate_reason

    # -- models ---------------------------------------------------------------------------------------------------

    def pool(self, id, nodes=2, slots=1, start_task=None, metadata=None, vm_size="standard_a1_v2", image=UBUNTU, **more):
        publisher, offer, sku, agent = image
        return models.PoolAddParameter(
            id=id,
            vm_size=vm_size,
            virtual_machine_configuration=models.VirtualMachineConfiguration(
                image_reference=models.ImageReference(publisher=publisher, offer=offer, sku=sku, version="latest"),
                node_agent_sku_id=agent,
            ),
            target_dedicated_nodes=nodes,
            task_slots_per_node=slots,
            start_task=start_task,
            metadata=self.metadata(metadata),
            **more,
        )

    def metadata(self, items):
        if items is None:
            return None
        return [models.MetadataItem(name=name, value=value) for name, value in items.items()]

    def environment(self, variables):
        if variables is None:
            return None
        return [models.EnvironmentSetting(name=name, value=value) for name, value in variables.items()]

    def start_task(self, command_line, resource_files=None, environment=None, retries=None, wait=True):
        return models.StartTask(
            command_line=command_line,
            resource_files=resource_files,
            environment_settings=self.environment(environment),
            max_task_retry_count=retries,
            wait_for_success=wait,
        )

    def resource_file(self, **members):
        return models.ResourceFile(**members)

    def output_file(self, output: Output):
        return models.OutputFile(
            file_pattern=output.pattern,
            destination=models.OutputFileDestination(
                container=models.OutputFileBlobContainerDestination(
                    container_url=output.container_url, path=output.path
                )
            ),
            upload_options=models.OutputFileUploadOptions(
                upload_condition=models.OutputFileUploadCondition(output.condition)
            ),
        )

    def task_constraints(self, wall_clock=None, retention=None, retries=None):
        return models.TaskConstraints(
            max_wall_clock_time=wall_clock, retention_time=retention, max_task_retry_count=retries
        )

    def task(
        self,
        id,
        command_line,
        resource_files=None,
        outputs=(),
        environment=None,
        wall_clock=None,
        retention=None,
        retries=None,
        slots=None,
        **more,
    ):
        constraints = None
        if (wall_clock, retention, retries) != (None, None, None):
            constraints = self.task_constraints(wall_clock, retention, retries)
        return models.TaskAddParameter(
            id=id,
            command_line=command_line,
            resource_files=resource_files,
            output_files=[self.output_file(output) for output in outputs] or None,
            environment_settings=self.environment(environment),
            constraints=constraints,
            required_slots=slots,
            **more,
        )

    def multi_instance(self):
        return models.MultiInstanceSettings(number_of_instances=2, coordination_command_line="/bin/true")

    def depends_on(self, *ids, ranges=()):
        ranges = [models.TaskIdRange(start=start, end=end) for start, end in ranges]
        return models.TaskDependencies(task_ids=list(ids) or None, task_id_ranges=ranges or None)

    def acts_on_failure(self):
        """The member of a job with which ends of its tasks may end or disable it."""
        return {"on_task_failure": models.OnTaskFailure.perform_exit_options_job_action}

    def job_preparation(self, command_line, retries=None, **members):
        constraints = None if retries is None else self.task_constraints(retries=retries)
        return models.JobPreparationTask(command_line=command_line, constraints=constraints, **members)

    def package(self, application, version=None):
        return models.ApplicationPackageReference(application_id=application, version=version)

    def list_applications(self):
        return list(self.client.application.list())

    def get_application(self, id):
        return self.client.application.get(id)

    def job_release(self, command_line, **members):
        return models.JobReleaseTask(command_line=command_line, **members)

    def job_manager(self, id, command_line, **members):
        return models.JobManagerTask(id=id, command_line=command_line, **members)

    def with_token(self, task):
        """The task or manager, which gets a token for its job."""
        task.authentication_token_settings = models.AuthenticationTokenSettings(access=[models.AccessScope.job])
        return task

    def token_access(self, task):
        settings = task.authentication_token_settings
        return list(settings.access) if settings else None

    def auto_pool(self, nodes=1, slots=1, prefix=None, lifetime="job", keep_alive=None):
        """What a job says in the place of a pool's id."""
        pool = self.pool("unused", nodes=nodes, slots=slots)
        specification = models.PoolSpecification(
            vm_size=pool.vm_size,
            virtual_machine_configuration=pool.virtual_machine_configuration,
            target_dedicated_nodes=nodes,
            task_slots_per_node=slots,
        )
        auto = models.AutoPoolSpecification(
            auto_pool_id_prefix=prefix,
            pool_lifetime_option=models.PoolLifetimeOption(lifetime),
            keep_alive=keep_alive,
            pool=specification,
        )
        return models.PoolInformation(auto_pool_specification=auto)

    def preparation_status(self, id):
        return list(self.client.job.list_preparation_and_release_task_status(id))

    def job_constraints(self, wall_clock=None, retries=None):
        return models.JobConstraints(max_wall_clock_time=wall_clock, max_task_retry_count=retries)

    def job(self, id, pool_id, environment=None, metadata=None, when_done=None, pool_info=None, **more):
        return models.JobAddParameter(
            id=id,
            pool_info=pool_info or models.PoolInformation(pool_id=pool_id),
            common_environment_settings=self.environment(environment),
            metadata=self.metadata(metadata),
            on_all_tasks_complete=when_done,
            **more,
        )

    # -- pools ----------------------------------------------------------------------------------------------------

    def create_pool(self, pool):
        self.client.pool.add(pool)

    def get_pool(self, id, select=None, **conditions):
        return self.client.pool.get(id, _options("PoolGetOptions", select=_comma(select), **conditions))

    def list_pools(self, filter=None, select=None):
        return list(self.client.pool.list(_options("PoolListOptions", filter=filter, select=_comma(select))))

    def pool_exists(self, id) -> bool:
        return self.client.pool.exists(id)

    def patch_pool(self, id, start_task=None, metadata=None, **conditions):
        patch = models.PoolPatchParameter(start_task=start_task, metadata=self.metadata(metadata))
        self.client.pool.patch(id, patch, _options("PoolPatchOptions", **conditions))

    def replace_pool_properties(self, id, start_task, metadata):
        self.client.pool.update_properties(
            id,
            models.PoolUpdatePropertiesParameter(
                start_task=start_task,
                certificate_references=[],
                application_package_references=[],
                metadata=self.metadata(metadata),
            ),
        )

    def resize_pool(self, id, dedicated=None, low_priority=None, option=None, wait=False, **conditions):
        resize = models.PoolResizeParameter(
            target_dedicated_nodes=dedicated, target_low_priority_nodes=low_priority, node_deallocation_option=option
        )
        self.client.pool.resize(id, resize, _options("PoolResizeOptions", **conditions))

    def stop_resize(self, id):
        self.client.pool.stop_resize(id)

    def delete_pool(self, id, wait=False, **conditions):
        self.client.pool.delete(id, _options("PoolDeleteOptions", **conditions))

    def node_counts(self, filter=None):
        return list(self.client.account.list_pool_node_counts(
            _options("AccountListPoolNodeCountsOptions", filter=filter)
        ))

    def supported_images(self, filter=None):
        return list(self.client.account.list_supported_images(
            _options("AccountListSupportedImagesOptions", filter=filter)
        ))

    # -- nodes ----------------------------------------------------------------------------------------------------

    def get_node(self, pool, id, select=None):
        return self.client.compute_node.get(pool, id, _options("ComputeNodeGetOptions", select=_comma(select)))

    def list_nodes(self, pool, filter=None, select=None):
        options = _options("ComputeNodeListOptions", filter=filter, select=_comma(select))
        return list(self.client.compute_node.list(pool, options))

    # -- jobs -----------------------------------------------------------------------------------------------------

    def create_job(self, job):
        self.client.job.add(job)

    def get_job(self, id, select=None, **conditions):
        return self.client.job.get(id, _options("JobGetOptions", select=_comma(select), **conditions))

    def list_jobs(self, filter=None, select=None):
        return list(self.client.job.list(_options("JobListOptions", filter=filter, select=_comma(select))))

    def patch_job(self, id, when_done=None, pool_id=None, pool_info=None, metadata=None, **members):
        conditions = {name: members.pop(name) for name in list(members) if name.startswith("if_")}
        patch = models.JobPatchParameter(
            on_all_tasks_complete=when_done,
            pool_info=models.PoolInformation(pool_id=pool_id) if pool_id else pool_info,
            metadata=self.metadata(metadata),
            **members,
        )
        self.client.job.patch(id, patch, _options("JobPatchOptions", **conditions))

    def replace_job(self, id, pool_id, **members):
        update = models.JobUpdateParameter(pool_info=models.PoolInformation(pool_id=pool_id), **members)
        self.client.job.update(id, update)

    def disable_job(self, id, tasks, wait=False):
        self.client.job.disable(id, tasks)

    def enable_job(self, id, wait=False):
        self.client.job.enable(id)

    def terminate_job(self, id, reason=None, wait=False, **conditions):
        self.client.job.terminate(id, reason, _options("JobTerminateOptions", **conditions))

    def delete_job(self, id, wait=False, **conditions):
        self.client.job.delete(id, _options("JobDeleteOptions", **conditions))

    def task_counts(self, id):
        return self.client.job.get_task_counts(id)

    # -- job schedules --------------------------------------------------------------------------------------------

    def job_specification(self, pool_id, when_done=None, pool_info=None, **members):
        pool_info = pool_info or models.PoolInformation(pool_id=pool_id)
        return models.JobSpecification(
            pool_info=pool_info, on_all_tasks_complete=when_done, **members
        )

    def schedule(self, **times):
        """`do_not_run_until`, `do_not_run_after`, `start_window`, `recurrence_interval`"""
        return models.Schedule(**times)

    def create_schedule(self, id, schedule, specification, metadata=None):
        self.client.job_schedule.add(
            models.JobScheduleAddParameter(
                id=id, schedule=schedule, job_specification=specification, metadata=self.metadata(metadata)
            )
        )

    def get_schedule(self, id):
        return self.client.job_schedule.get(id)

    def list_schedules(self, filter=None):
        return list(self.client.job_schedule.list(_options("JobScheduleListOptions", filter=filter)))

    def list_schedule_jobs(self, id):
        return list(self.client.job.list_from_job_schedule(id))

    def patch_schedule(self, id, **members):
        self.client.job_schedule.patch(id, models.JobSchedulePatchParameter(**members))

    def replace_schedule(self, id, schedule, specification):
        replaced = models.JobScheduleUpdateParameter(schedule=schedule, job_specification=specification)
        self.client.job_schedule.update(id, replaced)

    def disable_schedule(self, id):
        self.client.job_schedule.disable(id)

    def enable_schedule(self, id):
        self.client.job_schedule.enable(id)

    def terminate_schedule(self, id):
        self.client.job_schedule.terminate(id)

    def delete_schedule(self, id):
        self.client.job_schedule.delete(id)

    # -- tasks ----------------------------------------------------------------------------------------------------

    def create_task(self, job, task):
        self.client.task.add(job, task)

    def create_tasks(self, job, tasks) -> list:
        return self.client.task.add_collection(job, tasks).value

    def get_task(self, job, id, select=None, **conditions):
        return self.client.task.get(job, id, _options("TaskGetOptions", select=_comma(select), **conditions))

    def list_tasks(self, job, filter=None, select=None):
        return list(self.client.task.list(job, _options("TaskListOptions", filter=filter, select=_comma(select))))

    def task_pages(self, job, page_size, filter=None) -> list[list]:
        return _pages(self.client.task.list(job, _options("TaskListOptions", filter=filter, max_results=page_size)))

    def replace_task(self, job, id, constraints, **conditions):
        self.client.task.update(job, id, constraints, _options("TaskUpdateOptions", **conditions))

    def terminate_task(self, job, id):
        self.client.task.terminate(job, id)

    def reactivate_task(self, job, id):
        self.client.task.reactivate(job, id)

    def delete_task(self, job, id, **conditions):
        self.client.task.delete(job, id, _options("TaskDeleteOptions", **conditions))

    # -- files ----------------------------------------------------------------------------------------------------

    def read_task_file(self, job, task, path, range=None, **conditions) -> bytes:
        options = _options("FileGetFromTaskOptions", ocp_range=range, **conditions)
        return b"".join(self.client.file.get_from_task(job, task, path, options))

    def task_file(self, job, task, path) -> FileProperties:
        return _properties(self.client.file.get_properties_from_task(job, task, path, raw=True))

    def list_task_files(self, job, task, recursive=None, filter=None):
        options = _options("FileListFromTaskOptions", filter=filter)
        return list(self.client.file.list_from_task(job, task, recursive, options))

    def task_file_pages(self, job, task, page_size) -> list[list]:
        options = _options("FileListFromTaskOptions", max_results=page_size)
        return _pages(self.client.file.list_from_task(job, task, True, options))

    def delete_task_file(self, job, task, path, recursive=None):
        self.client.file.delete_from_task(job, task, path, recursive)

    def read_node_file(self, pool, node, path, range=None) -> bytes:
        options = _options("FileGetFromComputeNodeOptions", ocp_range=range)
        return b"".join(self.client.file.get_from_compute_node(pool, node, path, options))

    def node_file(self, pool, node, path) -> FileProperties:
        return _properties(self.client.file.get_properties_from_compute_node(pool, node, path, raw=True))

    def list_node_files(self, pool, node, recursive=None, filter=None):
        options = _options("FileListFromComputeNodeOptions", filter=filter)
        return list(self.client.file.list_from_compute_node(pool, node, recursive, options))

    def delete_node_file(self, pool, node, path, recursive=None):
        self.client.file.delete_from_compute_node(pool, node, path, recursive)


def _comma(names):
    return ",".join(names) if names else None


def _properties(raw) -> FileProperties:
    headers = raw.headers
    return FileProperties(
        length=headers["Content-Length"],
        modified=headers["Last-Modified"],
        is_directory=headers["ocp-batch-file-isdirectory"],
        mode=headers["ocp-batch-file-mode"],
        url=headers["ocp-batch-file-url"],
    )
