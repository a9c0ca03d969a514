# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What ``vllm serve`` does, for a distribution that is not called vllm: the command itself stops at the version of one that is."""

from __future__ import annotations

import sys

if __name__ == "__main__":  # processes of the server import this file too
    from vllm.entrypoints.cli.serve import ServeSubcommand
    from vllm.entrypoints.launchers.cli_args import make_arg_parser
    from vllm.entrypoints.serve.utils.api_utils import cli_env_setup
    from vllm.logger import configure_logging_from_args
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    cli_env_setup()
    command = ServeSubcommand()
    arguments = make_arg_parser(FlexibleArgumentParser()).parse_args(sys.argv[1:])
    configure_logging_from_args(arguments)
    command.validate(arguments)
    command.cmd(arguments)
