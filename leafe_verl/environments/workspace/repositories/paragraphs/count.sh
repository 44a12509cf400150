#!/bin/sh
exec python -c 'import sys; from paragraphs.words import count_words; print(count_words(sys.stdin.read()))'
