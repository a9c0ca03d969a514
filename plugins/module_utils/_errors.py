# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The errors that the knowledge raises. Only the edge of a module or plugin turns them into Ansible's."""

from __future__ import annotations


class LLMError(Exception):
    """A sentence for the user: what is wrong, with which value, and what to do about it."""


class InputError(LLMError):
    """The user's input is wrong; nothing has been changed."""
