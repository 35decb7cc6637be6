"""The command ``proseco``."""

from __future__ import annotations

import rich_click as click

from pipelines.cli import house, jobs, models, nights, runs

click.rich_click.TEXT_MARKUP = "rich"
click.rich_click.SHOW_ARGUMENTS = True


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="proseco")
def main() -> None:
    """Train, sample and serve self-correcting masked diffusion language models.

    A run is a YAML file; any of its values can be changed on the command line as [b]path.to.value=new[/b].
    Try: [b]proseco plan configs/runs/demo.yaml[/b]
    """


for _command in (
    runs.plan,
    runs.run,
    runs.explain,
    runs.show,
    nights.nightly,
    nights.rollback,
    jobs.submit,
    jobs.status,
    jobs.logs,
    jobs.stop,
    jobs.cluster,
    house.list_plugins,
    house.options,
    house.new,
    models.generate,
    models.score,
    models.replay,
    models.export,
    models.serve,
    models.diagnose,
    models.import_weights,
    house.lineage,
    house.chaos,
    house.doctor,
    house.bench,
    house.gc,
):
    main.add_command(_command)
