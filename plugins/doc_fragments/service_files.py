# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The files of a service, as every module that runs one takes them; ``_file_options`` has the same for the argument spec."""

from __future__ import annotations


class ModuleDocFragment:
    DOCUMENTATION = r"""
options:
  files:
    description: Configuration files.
    type: list
    elements: dict
    default: []
    suboptions:
      path:
        description: Where the file shall be.
        type: path
        required: true
      content:
        description: The whole content.
        type: str
        required: true
      mode:
        description: Permissions, in octal digits.
        type: str
        default: '0644'
      validate:
        description: A command that accepts or refuses the new content; C(%s) is replaced by the path of the staged file, beside which all files
          of the same directory are staged too. Where the service is a container, the command runs in its image.
        type: list
        elements: str
        default: []
  secret_files:
    description: Files like O(files), whose content stands in O(secret_contents) and is never shown.
    type: list
    elements: dict
    default: []
    suboptions:
      path:
        description: Where the file shall be.
        type: path
        required: true
      mode:
        description: Permissions, in octal digits.
        type: str
        default: '0640'
      validate:
        description: As in O(files).
        type: list
        elements: str
        default: []
  secret_contents:
    description:
      - The contents of O(secret_files), in their order.
      - They are an option of their own, because in a nested one Ansible masks a secret in the system's log only if it has no line break.
    type: list
    elements: str
    default: []
attributes:
  diff_mode:
    details: Of secret files it says only that they changed.
"""
