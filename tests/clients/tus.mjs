// Runs tus-js-client in Node as one JSON job on the command line says, and prints what happened as one line of JSON.

import { createReadStream, readFileSync } from 'node:fs'
import { PassThrough } from 'node:stream'
import * as tus from 'tus-js-client'

const job = JSON.parse(process.argv[2])
const happened = { events: [], url: null, error: null, status: null, slug: null, progress: 0, previous: 0 }

if (job.terminate) {
  await settle(tus.Upload.terminate(job.terminate, job.options))
} else {
  const input = {
    buffer: () => readFileSync(job.file),
    file: () => createReadStream(job.file),
    pipe: () => createReadStream(job.file).pipe(new PassThrough()),
  }[job.input ?? 'buffer']()
  const options = {
    retryDelays: null,
    ...job.options,
    onAfterResponse: (request, response) =>
      happened.events.push(`${request.getMethod()} ${response.getStatus()}`),
    onProgress: (sent) => (happened.progress = sent),
    onShouldRetry: () => true,
  }
  if (job.urls) options.urlStorage = new tus.FileUrlStorage(job.urls)
  await settle(
    new Promise((resolve, reject) => {
      const upload = new tus.Upload(input, {
        ...options,
        onSuccess: () => resolve(upload.url),
        onError: reject,
        onChunkComplete: (_size, accepted) => {
          if (job.abortAt === undefined || accepted < job.abortAt) return
          upload.abort(job.abortTerminates ?? false).then(() => resolve(upload.url), reject)
        },
      })
      start(upload).catch(reject)
    }),
  )
}
console.log(JSON.stringify(happened))
process.exit(0)

async function start(upload) {
  if (job.urls) {
    const previous = await upload.findPreviousUploads()
    happened.previous = previous.length
    if (previous.length) upload.resumeFromPreviousUpload(previous[0])
  }
  upload.start()
}

async function settle(outcome) {
  try {
    happened.url = (await outcome) ?? null
  } catch (error) {
    const answer = error.originalResponse
    happened.error = String(error)
    happened.status = answer ? answer.getStatus() : null
    happened.slug = answer?.getBody() ? JSON.parse(answer.getBody()).type : null
  }
}
