"""The boot file of a ModelArts job, where a preset image wants one; docs/clusters.md says what belongs beside it."""

from inceptionv4.runtime.modelarts import main

main()
