#!/bin/bash
# shellcheck disable=SC2086,SC2046,SC1091  # words are split on purpose, and no name in these machines holds a space; the rest is sourced by the run
# Sourced first: `cap PLUGIN WHAT SUFFIX COMMAND...` writes the output of a command and its line in the origin file.
OUT=/mnt/share/out; mkdir -p $OUT
D=$(. /etc/os-release; echo $ID$VERSION_ID)
MACHINE="$(. /etc/os-release; echo $PRETTY_NAME), kernel $(uname -r), qemu 7.2 machine"
# cap PLUGIN STEM SUFFIX TITLE COMMAND...   (the output of COMMAND)
cap() { p=$1; stem=$D-$2; suf=$3; shift 3; mkdir -p $OUT/$p
  eval "$*" > $OUT/$p/$stem.$suf 2>$OUT/$p/$stem.$suf.err; rc=$?
  [ -s $OUT/$p/$stem.$suf.err ] || rm $OUT/$p/$stem.$suf.err
  [ -f $OUT/$p/$stem.origin ] || printf 'real output\nmachine: %s\n' "$MACHINE" > $OUT/$p/$stem.origin
  printf '%s: %s (exit %s)\n' "$stem.$suf" "$*" $rc >> $OUT/$p/$stem.origin; }
note() { printf 'set up: %s\n' "$3" >> $OUT/$1/$D-$2.origin; }
