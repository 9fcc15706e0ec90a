"""Planted bugs: each breaks a privacy guarantee in a way seen in published code, and a test must notice."""

import planted_agent
import planted_books
import planted_site
import planted_step

MUTANTS = planted_step.MUTANTS + planted_site.MUTANTS + planted_books.MUTANTS + planted_agent.MUTANTS
