// Makes of browser.js one script that a page can load.

import { buildSync } from 'esbuild'

buildSync({ entryPoints: ['browser.js'], bundle: true, format: 'iife', outfile: 'bundle.js', logLevel: 'error' })
