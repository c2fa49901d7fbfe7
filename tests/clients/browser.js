// What a page of the tests may use: the clients, and files made in the page.

import Uppy from '@uppy/core'
import UppyTus from '@uppy/tus'
import XHRUpload from '@uppy/xhr-upload'
import * as tus from 'tus-js-client'

// The same bytes for the same number, so that Python can say what they are: a repeated line.
function fileOf(name, line, bytes, type = 'text/plain') {
  const unit = `${line}\n`
  const text = unit.repeat(Math.ceil(bytes / unit.length)).slice(0, bytes)
  return new File([text], name, { type, lastModified: 1_700_000_000_000 })
}

Object.assign(globalThis, { Uppy, UppyTus, XHRUpload, tus, fileOf })
